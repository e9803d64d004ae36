"""What people read when a search or a check is over."""
