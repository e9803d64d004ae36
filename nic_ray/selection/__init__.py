"""Selection of the model to export from a search's trials: averaging, interpolation, guard and export."""
