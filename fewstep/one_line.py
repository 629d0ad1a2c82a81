"""An error's message as one line, for messages that quote it."""


def one_line(error: BaseException | str, most: int = 200) -> str:
    """At most so many characters of the text; the name of an error that has none."""
    text = " ".join(str(error).split())[:most]
    return text if text or isinstance(error, str) else type(error).__name__
