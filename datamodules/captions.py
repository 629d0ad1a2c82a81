"""The captions of a sample from its .txt and .json members, as this project and img2dataset write them."""

from typing import Any

from datamodules.bad_sample import BadSample
from fewstep.files.plain_json import parse_json

MAX_BYTES = 1 << 20  # of a .txt or .json; longer ones are no captions


def captions_of(text: bytes | None, metadata: bytes | None) -> tuple[list[str], dict[str, Any]]:
    """All captions, never none, without surrounding white space, and what the json holds ({} without one).

    The first source with anything in it counts: the json list "captions", the .txt, the json string "caption". The json
    must be one object; null, and NaN, which some writers put for it, mean absent.

    BadSample: missing_caption, empty_caption (only white space everywhere), not_utf8, bad_json, empty_file (a json of
    zero bytes), too_large.
    """
    values = {} if metadata is None else json_object(metadata)
    several, single = values.get("captions"), values.get("caption")
    if not isinstance(several, list | None) or not all(isinstance(caption, str) for caption in several or ()):
        raise BadSample("bad_json", '"captions" is not a list of strings')
    if not isinstance(single, str | None):
        raise BadSample("bad_json", f'"caption" is a {type(single).__name__}, not a string')
    sources = [several or [], [] if text is None else [_decoded(text, "txt")], [] if single is None else [single]]
    for source in sources:
        if captions := [stripped for caption in source if (stripped := caption.strip())]:
            _refuse_half_characters(captions)
            return captions, values
    raise BadSample("empty_caption" if any(sources) else "missing_caption")


def _decoded(content: bytes, suffix: str) -> str:
    if len(content) > MAX_BYTES:
        raise BadSample("too_large", f"{suffix} of {len(content)} bytes, the limit is {MAX_BYTES}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadSample("not_utf8", f"{suffix}: {error.reason} at byte {error.start}") from error


def json_object(content: bytes) -> dict[str, Any]:
    """What a KEY.json holds; BadSample as above."""
    if not content:
        raise BadSample("empty_file", "json of zero bytes")
    try:
        values = parse_json(_decoded(content, "json"), sloppy=True)
    except BadSample:
        raise
    except ValueError as error:  # also: a number of more than 4300 digits
        raise BadSample("bad_json", str(error)[:120]) from error
    if not isinstance(values, dict):
        raise BadSample("bad_json", f"holds a {type(values).__name__}, not an object")
    return values


def _refuse_half_characters(captions: list[str]) -> None:
    """JSON can spell what no UTF-8 holds, such as "\\ud800" alone; tokenizers and log files would stumble over it."""
    try:
        "\n".join(captions).encode()
    except UnicodeEncodeError as error:
        raise BadSample("bad_json", "half a surrogate pair in the json") from error
