"""Where numbers and artifacts of a run are kept for later: CSV files, W&B, Trackio."""
