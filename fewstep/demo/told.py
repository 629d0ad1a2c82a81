"""The line below an answer, as the page shows it."""


def shown_line(told: str, wrong: bool) -> str:
    """As HTML without anything that the text itself could bring along; a mistake in its colour."""
    plain = told.replace("&", "&amp;").replace("<", "&lt;")
    return f'<span class="wrong">{plain}</span>' if wrong else plain
