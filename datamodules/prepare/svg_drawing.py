"""SVG text to pixels, through resvg (a wheel without system libraries). Text that embeds other files is refused."""


def require_resvg() -> None:
    """ValueError in one line where it is missing; ask before anything is fetched or begun."""
    try:
        import resvg_py  # noqa: F401
    except ImportError as error:
        raise ValueError("drawing SVG needs resvg-py: `uv sync --group drawing`, or `pip install resvg-py`") from error


def png_from_svg(text: str, size: int) -> bytes:
    """A PNG of size x size pixels with transparency; ValueError if resvg-py is missing, BadSample for bad text."""
    require_resvg()
    import resvg_py

    from datamodules.bad_sample import BadSample

    if "<image" in text or "<!ENTITY" in text:
        raise BadSample("not_an_image", "SVG: refers to other files")
    try:  # without the system's fonts: the same pixels everywhere
        return bytes(resvg_py.svg_to_bytes(svg_string=text, width=size, height=size, skip_system_fonts=True))
    except ValueError as error:
        raise BadSample("not_an_image", f"SVG: {error}") from error
