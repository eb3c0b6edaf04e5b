"""One image file of any common kind becomes one plain RGB PNG, or is refused with a reason.

What is changed everywhere, silently: palettes become colours, transparency is laid on white, and
nothing but pixels is kept. What may surprise its owner is noted: the first frame of an animation,
CMYK, 16 bits, a rotation by EXIF, scaling down.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from corgi_core.config import DataSettings
from corgi_core.errors import CorgiError

# no vector formats (EPS would start Ghostscript) and nothing that only old programs write
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
_EXIF_ORIENTATION = 0x0112
MAX_BYTES = 1 << 28  # of a file that a person names


class UnfitError(Exception):
    """An image that cannot be used: a short `reason`, one of a few, and this one's `detail`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass
class Normalised:
    """A plain PNG, and (reason, detail) for every change worth knowing."""

    png: bytes = b""
    changes: list[tuple[str, str]] = field(default_factory=list)


def normalise(image: bytes, max_pixels: int, max_side: int) -> Normalised:
    """The file `image` as an RGB PNG of at most `max_side` pixels a side, or an UnfitError.

    `max_pixels` is compared with the size in the file's header, before anything is decoded.
    The same pixels always give the same bytes.
    """
    if not image:
        raise UnfitError("empty file", "zero bytes")
    result = Normalised()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(image), formats=FORMATS) as opened:
                result.png = _png(_plain(opened, max_pixels, max_side, result.changes))
    except UnfitError:
        raise
    except UnidentifiedImageError as error:
        raise UnfitError("unknown format", f"none of {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise UnfitError("too many pixels", str(error)) from error
    except Exception as error:  # Pillow's parsers raise whatever the damage makes them raise
        raise UnfitError("damaged", f"{type(error).__name__}: {error}"[:200]) from error
    return result


def picture_file(path: Path) -> bytes:
    """The image that a person names, made plain as the gate makes it: an RGB PNG's bytes.

    Raises CorgiError where there is no such file, or none that the gate would pass.
    """
    remedy = "give a picture that an ordinary viewer can open"
    if not path.is_file():
        raise CorgiError(f"there is no picture {path}", remedy)
    if path.stat().st_size > MAX_BYTES:
        raise CorgiError(f"{path} is larger than {MAX_BYTES >> 20} MiB", remedy)
    limits = DataSettings()
    try:
        return normalise(path.read_bytes(), limits.max_pixels, limits.max_side).png
    except OSError as error:
        raise CorgiError(f"{path} cannot be read ({error.strerror})", remedy) from error
    except UnfitError as unfit:
        raise CorgiError(f"{path} cannot be used ({unfit})", remedy) from unfit


def _plain(
    opened: Image.Image, max_pixels: int, max_side: int, changes: list[tuple[str, str]]
) -> Image.Image:
    """`opened` as RGB pixels and nothing else; what was changed is appended to `changes`."""
    width, height = opened.size
    if width * height > max_pixels:
        raise UnfitError("too many pixels", f"{width} × {height} is more than {max_pixels:,}")
    if getattr(opened, "is_animated", False):
        changes.append(("animated", "its first frame is kept"))
    opened.draft(None, (max_side, max_side))  # JPEG only: decodes no more than is needed
    opened.load()
    orientation = opened.getexif().get(_EXIF_ORIENTATION, 1)
    upright = ImageOps.exif_transpose(opened)
    if orientation in range(2, 9):
        changes.append(("EXIF rotation", f"orientation {orientation} is applied"))
    if opened.mode == "CMYK":
        changes.append(("CMYK", "converted to RGB"))
    if opened.mode[0] in "IF":
        changes.append(("16-bit", "scaled to 8 bits"))
        upright = _eight_bits(upright)
    plain = Image.new("RGB", upright.size, "white")
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        plain.paste(upright, mask=upright.getchannel("A"))
    else:
        plain.paste(upright.convert("RGB"))
    if max(width, height) > max_side:
        plain.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
        changes.append(("oversize", f"{width} × {height} scaled to at most {max_side} a side"))
    return plain


def _eight_bits(picture: Image.Image) -> Image.Image:
    """A 16-bit grey picture in 8 bits; Pillow's own conversion would clip it to white."""
    values = np.asarray(picture).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise UnfitError(
            "pixel format", f"{picture.mode} values beyond 16 bits have no known range"
        )
    return Image.fromarray(np.round(values / 257).astype(np.uint8))


def _png(plain: Image.Image) -> bytes:
    file = io.BytesIO()
    plain.save(file, "PNG", compress_level=2)
    return file.getvalue()
