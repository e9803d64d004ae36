"""From the trials of a search to the model that is exported: averaged, drawn back, guarded, checked."""
