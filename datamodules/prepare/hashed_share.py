"""Random choices that depend on names only, so that they stay when more data are added."""

import hashlib


def share(*words: str) -> float:
    """A number in [0, 1), uniform over different words and always the same for equal ones."""
    return int.from_bytes(hashlib.sha256(" ".join(words).encode()).digest()[:6], "big") / 2**48
