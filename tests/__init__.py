"""A package of its own name, so that no other installed `tests` takes its place."""
