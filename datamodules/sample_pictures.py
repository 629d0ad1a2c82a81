"""Which member of a sample is its picture."""

from collections.abc import Mapping

from datamodules.bad_sample import BadSample

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp")  # the first that a sample has is read


def picture_of(fields: Mapping[str, bytes], name: str = "") -> bytes:
    """The picture of a sample, or with a name such as `edited.` a further one; BadSample if there is none."""
    for suffix in IMAGE_SUFFIXES:
        if (content := fields.get(name + suffix)) is not None:
            return content
    raise BadSample("missing_image", f"no {name}{{{','.join(IMAGE_SUFFIXES)}}}")
