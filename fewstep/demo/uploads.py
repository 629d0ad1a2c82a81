"""Gradio's two picture inputs, which decode whatever they are given, with the limits of fewstep.files.pictures."""

import base64
from pathlib import Path
from typing import Any

from fewstep.files.pictures import check_picture


def limited(component: Any) -> Any:
    """A gradio Image or ImageEditor; from now on it tells in one line what is wrong with an upload, not yet decoded.

    Its own method is wrapped: gradio writes a stub file beside every module that derives a class.
    """
    from gradio import Error

    name = "convert_and_format_image" if hasattr(component, "convert_and_format_image") else "preprocess"
    decode = getattr(component, name)

    def checked(file: Any, *options: Any, **named: Any) -> Any:
        try:
            check_picture(_content(file))
        except ValueError as error:
            raise Error(str(error)) from None
        return decode(file, *options, **named)

    setattr(component, name, checked)
    return component


def _content(file: Any) -> bytes | None:
    """The bytes of what a page sends: none, bytes, an address with the data in it, or a path in gradio's folder."""
    if file is None or isinstance(file, bytes | bytearray | memoryview):
        return None if file is None else bytes(file)
    if (file.url or "").startswith("data:"):
        return base64.b64decode(file.url.partition(",")[2])
    return Path(file.path).read_bytes() if file.path else None
