"""What the columns of y are called on the axes of a plot."""

LONGEST = 40  # signs


def column_labels(names: list[str], dims: int) -> list[str]:
    """One label for each of `dims` columns: the names that the data give, or y_1, y_2, ... where these do not fit."""
    if len(names) != dims or not all(isinstance(name, str) for name in names):
        return [f"$y_{{{i + 1}}}$" for i in range(dims)]
    return [as_written(name) for name in names]


def as_written(name: str) -> str:
    """Somebody's name as matplotlib shows it: never a formula, on one line, and not hidden for its first sign."""
    plain = "".join(sign if sign.isprintable() else " " for sign in name)
    plain = plain if len(plain) <= LONGEST else f"{plain[: LONGEST - 1]}…"
    return (f" {plain}" if plain.startswith("_") else plain).replace("$", r"\$")
