"""What `python -m fewstep.fast_edit` does: files in, files out, one line told."""
