"""`train.py`: command line, run folder, resume, stages, exit codes."""
