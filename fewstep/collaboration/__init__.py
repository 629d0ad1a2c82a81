"""Adaptive collaboration (arXiv 2312.10835): a student drafts, an oracle decides, a teacher improves what needs it."""
