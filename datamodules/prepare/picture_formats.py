"""Which files of a folder are pictures, and pictures of formats that shards do not hold, read by Pillow.

Only formats with pixels and a decoder of their own: those that run programs (EPS) or draw (WMF) are never opened.
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module

from datamodules.bad_sample import BadSample

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "AVIF", "TIFF", "JPEG2000", "PPM", "TGA", "QOI")
PLUGINS = {  # suffixes: what teaches Pillow to read them, as a package and as a module; its format
    (".heic", ".heif", ".hif", ".heics", ".heifs"): ("pillow-heif", "pillow_heif", "HEIF"),
    (".jxl",): ("pillow-jxl-plugin", "pillow_jxl", "JXL"),
}
RAW = re.compile(
    r"\.(3fr|ari|arw|cr2|cr3|crw|dcr|dng|erf|fff|iiq|kdc|mef|mos|mrw|nef|nrw|orf|pef|raf|raw|rw2|rwl|sr2|srf|srw|x3f)"
)
STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM")  # of what shards hold, beside WebP
HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")  # brands
DEEP = ("F", "I", "I;16S", "I;32", "I;32S")  # numbers whose white is not known


@cache
def readable() -> dict[str, str]:
    """{suffix: format} of the pictures that are read here."""
    from PIL import Image

    Image.init()
    formats = [*FORMATS, *(form for _, module, form in PLUGINS.values() if _registered(module))]
    return {suffix: form for suffix, form in Image.registered_extensions().items() if form in formats}


def _registered(module: str) -> bool:
    """Whether the plugin is installed; then Pillow knows it."""
    try:
        plugin = import_module(module)
    except ImportError:
        return False
    getattr(plugin, "register_heif_opener", lambda: None)()  # the other one registers when it is imported
    return True


def why_not(suffix: str) -> str:
    """Why files with this suffix are left out, and what to do."""
    for suffixes, (package, _, _) in PLUGINS.items():
        if suffix in suffixes:
            return f"`pip install {package}` reads them"
    if RAW.fullmatch(suffix):
        return "raw photographs; export them as JPEG or PNG"
    return "not read as pictures; convert or rename those that are"


def held(content: bytes) -> bool:
    """Whether these bytes begin as a picture that `decode_image` reads."""
    return content.startswith(STARTS) or (content.startswith(b"RIFF") and content[8:12] == b"WEBP")


def as_png(content: bytes, max_pixels: int) -> bytes:
    """The first picture in a file of FORMATS or of a plugin, upright, as PNG; its bits are kept, profiles are not.

    BadSample: empty_file, too_large, truncated_image, not_an_image.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    formats = sorted(set(readable().values()) & Image.OPEN.keys())  # MPO is opened as JPEG
    try:
        with _no_other_limit(), Image.open(io.BytesIO(content), formats=formats) as picture:
            if picture.width * picture.height > max_pixels:
                raise BadSample("too_large", f"{picture.width} x {picture.height} pixels, the limit is {max_pixels}")
            if picture.mode in DEEP:
                raise BadSample("not_an_image", f"{picture.format} of {picture.mode} numbers; store 8 or 16 bits")
            buffer, upright = io.BytesIO(), ImageOps.exif_transpose(picture)
            if not upright.mode.startswith("I;16"):
                upright = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
            upright.info = {}
            upright.save(buffer, "PNG", compress_level=1)
            return buffer.getvalue()
    except BadSample:
        raise
    except UnidentifiedImageError:
        raise BadSample("not_an_image", _called(content)) from None
    except Exception as error:  # decoders raise whatever damaged bytes lead them to
        if isinstance(error, MemoryError):
            raise
        reason = " ".join(str(error).split("\n", 1)[0].split())
        kind = "truncated_image" if "truncated" in reason.lower() else "not_an_image"
        raise BadSample(kind, reason[:200]) from error


def _called(content: bytes) -> str:
    """What these bytes are, whatever the name of their file says."""
    if content[4:8] == b"ftyp" and content[8:12] in HEIF:
        return "HEIC, pillow-heif reads it"
    if content.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return "JPEG XL, pillow-jxl-plugin reads it"
    return f"starts with {content[:8].hex(' ')}"


@contextmanager
def _no_other_limit() -> Iterator[None]:
    """Pillow's own limit lies at 179 million pixels; here `max_pixels` is the limit."""
    from PIL import Image

    kept, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's on odd EXIF data
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = kept
