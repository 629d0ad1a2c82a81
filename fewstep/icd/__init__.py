"""Invertible consistency distillation (arXiv 2406.14539): the pair of students, encode and decode, editing."""
