"""What models are judged by: plain values and arrays, no models."""
