"""Photos that others made, decoded to upright RGB: what is broken, of another kind or too large is refused by name."""

from __future__ import annotations

import importlib
import threading
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from vldistill.errors import DataError
from vldistill.storage.files import human_bytes

# Raster formats only: Pillow would also hand PostScript to an interpreter.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "HEIF")
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
HEIC = frozenset(b"ftyp" + brand for brand in (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"heim", b"heis"))
LARGE = 16_000_000  # pixels; from here on photos are decoded one at a time, which bounds the memory
_LARGE_ONE = threading.Lock()


@dataclass(frozen=True)
class PhotoLimits:
    """What a photo may have; more is refused before it is decoded.

    Args:
        pixels: width times height, by the file's header.
        bytes: of the encoded file.
    """

    pixels: int = 64_000_000
    bytes: int = 256_000_000

    def check_bytes(self, size: int, label: str) -> None:
        """Refuse a file of ``size`` bytes before it is read. Raises DataError."""
        if size > self.bytes:
            raise DataError(
                f"{label} has {human_bytes(size)}; expected {human_bytes(self.bytes)} or less. Make it smaller, or "
                f"raise data.max_bytes."
            )

    def check_pixels(self, width: int, height: int, label: str) -> None:
        """Refuse an image of ``width`` x ``height`` before it is decoded. Raises DataError."""
        if width * height > self.pixels:
            raise DataError(
                f"{label} has more than {self.pixels:,} pixels: it is {width} x {height}. Make it smaller, or raise "
                f"data.max_pixels."
            )


PHOTO_LIMITS = PhotoLimits()


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow can open."""
    Image.init()
    with suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def decode(raw: bytes, label: str, at_least: int = 0, limits: PhotoLimits = PHOTO_LIMITS) -> Image.Image:
    """Decode an encoded image to upright RGB; of an animation the first frame.

    Args:
        raw: the encoded bytes, PNG, JPEG or another raster format.
        label: how messages name it.
        at_least: when positive, sides of this many pixels are enough: a large JPEG may be decoded at a fraction of
            its size, which is much faster. 0 is the full size.
        limits: what is too large.

    Raises:
        DataError: broken, truncated, empty, of another format, or over the limits.
    """
    limits.check_bytes(len(raw), label)
    try:
        with Image.open(BytesIO(raw), formats=_formats()) as image:
            limits.check_pixels(image.width, image.height, label)
            with _LARGE_ONE if image.width * image.height > LARGE else nullcontext():
                if at_least:
                    image.draft(None, (2 * at_least, 2 * at_least))  # twice: the rest is done by a good filter
                image.load()
                return _rgb(image)
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(
            f"{label} has more pixels than Pillow opens (PIL.Image.MAX_IMAGE_PIXELS, {Image.MAX_IMAGE_PIXELS:,}). "
            f"Make it smaller."
        ) from None
    except Exception as error:  # decoders raise nearly anything on broken bytes
        known = _unknown(raw) if isinstance(error, UnidentifiedImageError) else _short(error)
        reason = known if raw else "empty"
        raise DataError(
            f"{label} is not a readable image ({reason}). Replace it, or take it out of the source."
        ) from None


def _unknown(raw: bytes) -> str:
    """Why Pillow knows no format for some bytes."""
    if raw[4:12] in HEIC and "HEIF" not in _formats():
        return "HEIC needs the package pillow-heif: pip install 'vldistill[heic]'"
    return "of no known image format"


def format_of(raw: bytes, label: str) -> str:
    """Pillow's name of the format of an encoded image, seen from its header. Raises DataError for what is none."""
    try:
        with Image.open(BytesIO(raw), formats=_formats()) as image:
            return str(image.format)
    except Exception:  # decoders raise nearly anything on broken bytes
        raise DataError(f"{label} is of no known image format. Replace it, or take it out of the source.") from None


def _short(error: Exception) -> str:
    """One line of a decoder's message."""
    return " ".join((str(error) or type(error).__name__).split())[:160]


def _rgb(image: Image.Image) -> Image.Image:
    """Upright and in RGB, in memory of its own: the original closes with its file.

    What is transparent shows white, 16-bit greys are scaled, not clipped. Photos with broken EXIF data are kept.
    """
    try:
        method = UPRIGHT.get(image.getexif().get(0x0112, 1))
    except Exception:
        method = None
    upright = image if method is None else image.transpose(method)
    if upright.mode == "RGB":
        return image.copy() if upright is image else upright
    if upright.mode.startswith("I"):
        grey = np.asarray(upright)
        upright = Image.fromarray((grey >> 8).clip(0, 255).astype(np.uint8))
    if upright.has_transparency_data:
        clear = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
    return upright.convert("RGB")


def upright_rgb(image: Image.Image) -> Image.Image:
    """An image that is open already, upright and in RGB, as :func:`decode` gives it."""
    return _rgb(image)
