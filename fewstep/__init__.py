"""The mathematics of fewstep: tensors in, tensors out. Imports neither Lightning nor a data library."""

__version__ = "0.1.0"
