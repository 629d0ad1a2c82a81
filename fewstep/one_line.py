"""Text that others wrote, as one line for messages that quote it."""

import traceback


def one_line(error: BaseException | str, most: int = 200) -> str:
    """At most so many characters of the text; for an error without words its type and where it was raised."""
    text = " ".join(str(error).split())[:most]
    return text if text or isinstance(error, str) else type(error).__name__ + _place(error)


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f" in line {frames[-1].lineno} of {frames[-1].filename}" if frames else ""


def printable(line: str) -> str:
    """The line without characters that could steer a terminal or that no file can hold; they are spelt out."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
