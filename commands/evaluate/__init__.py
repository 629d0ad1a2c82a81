"""`evaluate.py`: from checkpoints, pipelines or prompts to numbers."""
