"""What happens at every so many steps."""


def due(step: int, every: int) -> bool:
    """Whether this step is one of every `every`; 0 means never, as for Lightning's own logging."""
    return every > 0 and step % every == 0
