"""What users start: parse, build, run, exit. The only package that knows modules, data and callbacks."""
