"""In a wheel: train.py, evaluate.py, configs/ and the small ones of data/. In a checkout they lie at its root instead.

`package-dir` in pyproject.toml makes this package of the root; commands/packaged_files.py finds the files in either.
"""
