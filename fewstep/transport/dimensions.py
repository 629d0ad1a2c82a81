"""Whether a model of p(y|x) and its data have the same dimensions."""


def check_dimensions(model: object, x_dim: int, y_dim: int) -> None:
    """ValueError in one line unless the model's x_dim and y_dim, where it has them, are those of the data."""
    for name, found in (("x", x_dim), ("y", y_dim)):
        if (expected := getattr(model, f"{name}_dim", found)) != found:
            raise ValueError(f"the data has {name} of {found} dimensions, the model {name}_dim={expected}")
