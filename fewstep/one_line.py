"""Text that others wrote, as one line for messages that quote it."""


def one_line(error: BaseException | str, most: int = 200) -> str:
    """At most so many characters of the text; the name of an error that has none."""
    text = " ".join(str(error).split())[:most]
    return text if text or isinstance(error, str) else type(error).__name__


def printable(line: str) -> str:
    """The line without characters that could steer a terminal or that no file can hold; they are spelt out."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
