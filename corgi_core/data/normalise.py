"""One image file of any common kind becomes a plain RGB one, or is refused with a reason.

A JPEG, PNG or WebP whose pixels stay as they are keeps their bytes; all others become PNGs. What is
changed everywhere, silently: grey and palettes become colours, transparency is laid on white, and
all but the pixels is dropped. What may surprise its owner is noted: the first frame of an
animation, CMYK, 16 or 32 bits, a rotation by EXIF, scaling down.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from xxhash import xxh3_128

from corgi_core.config import DataSettings
from corgi_core.data.perceptual_hash import hash_of
from corgi_core.data.plain_files import without_metadata
from corgi_core.errors import CorgiError

# no vector formats (EPS would start Ghostscript) and nothing that only old programs write
FORMATS = (
    "PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "DIB", "ICO", "TGA",
    "QOI",
)  # fmt: skip
# Formats whose plain files stay as they are, and their suffixes.
PLAIN_SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
_EXIF_ORIENTATION = 0x0112
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
MAX_BYTES = 1 << 28  # of a file that a person names


class UnfitError(Exception):
    """An image that cannot be used: a short `reason`, one of a few, and this one's `detail`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass
class Normalised:
    """A plain file, and (reason, detail) for every change worth knowing.

    Attributes:
        image: The file's bytes.
        suffix: "jpg", "png" or "webp".
        pixels: Names the decoded pixels: the XXH3, of 128 bits, of width, height and RGB bytes.
        hash: The perceptual hash; None for an image that shows nothing.
    """

    image: bytes = b""
    suffix: str = "png"
    pixels: str = ""
    hash: int | None = None
    changes: list[tuple[str, str]] = field(default_factory=list)


class _Silence:
    """Counts who wants no warnings: the first one turns them off, the last one turns them on.

    Python's filters are those of all threads, and `catch_warnings` puts back what it found: where
    two threads overlap, the second finds the first one's filters and would leave them for good.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._before = threading.Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._before.close()


_SILENCE = _Silence()


@contextmanager
def without_warnings() -> Iterator[None]:
    """Inside, nothing warns, in any thread: warnings are ignored for all threads or for none."""
    with _SILENCE:
        yield


def normalise(image: bytes, max_pixels: int, max_side: int) -> Normalised:
    """The file `image` as a plain one of at most `max_side` pixels a side, or an UnfitError.

    `max_pixels` is compared with the size in the file's header, before anything is decoded. Pillow
    warns of odd files, unless called `without_warnings`.
    """
    if not image:
        raise UnfitError("empty file", "zero bytes")
    try:
        return _normalised(image, max_pixels, max_side)
    except UnfitError as unfit:
        without = _without_text(image)
        if unfit.reason != "damaged" or without == image:
            raise
        return _normalised(without, max_pixels, max_side)


def _normalised(image: bytes, max_pixels: int, max_side: int) -> Normalised:
    result = Normalised()
    try:
        with Image.open(io.BytesIO(image), formats=FORMATS) as opened:
            _check_size(opened, max_pixels)
            unchanged = _unchanged(opened, image, max_side)
            if unchanged is not None:
                result.image, picture = unchanged
                result.suffix = PLAIN_SUFFIXES[opened.format or ""]
            else:
                picture = _plain(opened, max_side, result.changes)
                result.image = _png(picture)
            result.pixels, result.hash = _digest(picture), hash_of(picture)
    except UnfitError:
        raise
    except UnidentifiedImageError as error:
        raise UnfitError("unknown format", f"none of {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise UnfitError("too many pixels", str(error)) from error
    except Exception as error:  # Pillow's parsers raise whatever the damage makes them raise
        raise UnfitError("damaged", f"{type(error).__name__}: {error}"[:200]) from error
    return result


def _without_text(image: bytes) -> bytes:
    """A PNG without its texts and colour profile, of which Pillow reads at most 1 MiB each.

    They are dropped in any case; other files are returned as they are.
    """
    if not image.startswith(_PNG):
        return image
    parts, at = [_PNG], len(_PNG)
    while at < len(image):
        end = at + 12 + int.from_bytes(image[at : at + 4], "big")  # length, type, data, checksum
        if image[at + 4 : at + 8] not in _PNG_TEXTS:
            parts.append(image[at:end])
        at = end
    return b"".join(parts)


def picture_file(path: Path) -> bytes:
    """The image that a person names, made plain as the gate makes it: a file's bytes.

    Raises CorgiError where there is no such file, or none that the gate would pass.
    """
    remedy = "give a picture that an ordinary viewer can open"
    if not path.is_file():
        raise CorgiError(f"there is no picture {path}", remedy)
    if path.stat().st_size > MAX_BYTES:
        raise CorgiError(f"{path} is larger than {MAX_BYTES >> 20} MiB", remedy)
    limits = DataSettings()
    try:
        with without_warnings():
            return normalise(path.read_bytes(), limits.max_pixels, limits.max_side).image
    except OSError as error:
        raise CorgiError(f"{path} cannot be read ({error.strerror})", remedy) from error
    except UnfitError as unfit:
        raise CorgiError(f"{path} cannot be used ({unfit})", remedy) from unfit


def _check_size(opened: Image.Image, max_pixels: int) -> None:
    width, height = opened.size
    if width * height > max_pixels:
        raise UnfitError("too many pixels", f"{width} × {height} is more than {max_pixels:,}")


def _unchanged(
    opened: Image.Image, image: bytes, max_side: int
) -> tuple[bytes, Image.Image] | None:
    """The file without all but its pixels, and these decoded; None where they must be changed."""
    if opened.format not in PLAIN_SUFFIXES or opened.mode != "RGB" or max(opened.size) > max_side:
        return None
    if opened.has_transparency_data or getattr(opened, "is_animated", False):
        return None
    if opened.getexif().get(_EXIF_ORIENTATION, 1) in range(2, 9):
        return None
    plain = without_metadata(image, opened.format)
    if plain is None:
        return None
    if opened.format == "PNG" or plain == image:  # a PNG's EXIF may follow its pixels: decoded
        opened.load()
        return plain, opened
    picture = Image.open(io.BytesIO(plain), formats=[opened.format])
    picture.load()
    return plain, picture


def _digest(picture: Image.Image) -> str:
    digest = xxh3_128(f"{picture.width} × {picture.height}".encode())
    digest.update(picture.tobytes())
    return digest.hexdigest()


def _plain(opened: Image.Image, max_side: int, changes: list[tuple[str, str]]) -> Image.Image:
    """`opened` as RGB pixels and nothing else; what was changed is appended to `changes`."""
    width, height = opened.size
    if getattr(opened, "is_animated", False):
        changes.append(("animated", "its first frame is used"))
    opened.draft(None, (max_side, max_side))  # JPEG only: decodes no more than is needed
    opened.load()
    orientation = opened.getexif().get(_EXIF_ORIENTATION, 1)
    upright = ImageOps.exif_transpose(opened)
    if orientation in range(2, 9):
        changes.append(("EXIF rotation", f"orientation {orientation} is applied"))
    if opened.mode == "CMYK":
        changes.append(("CMYK", "converted to RGB"))
    if opened.mode[0] in "IF":
        upright, change = _eight_bits(upright, opened.format)
        changes.append(change)
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


def _eight_bits(
    picture: Image.Image, file_format: str | None
) -> tuple[Image.Image, tuple[str, str]]:
    """A grey picture of 16 or 32 bits, or of floats, in 8 bits; and what was done to it.

    Pillow's own conversion would clip it. Integers of 16 bits have their whole range; of others the
    largest value says which range they are in: 0..1 (floats), 0..255 or 0..65535.

    Raises:
        UnfitError: The values are not finite, negative, or in none of those ranges.
    """
    values = np.asarray(picture).astype(np.float64)
    if not np.isfinite(values).all():
        raise UnfitError("pixel format", "some pixels are not finite")
    low, high = values.min(), values.max()
    full_range = picture.mode.startswith("I;16") or file_format == "PPM"
    if low >= 0 and picture.mode == "F" and high <= 1.001:
        scale, change = 255.0, ("float pixels", "0..1 scaled to 8 bits")
    elif low >= 0 and not full_range and (picture.mode == "I" or high >= 16) and high < 255.5:
        scale, change = 1.0, ("32-bit", "0..255 taken as 8 bits")
    elif low >= 0 and high <= 65535 and (full_range or high >= 4096):
        scale, change = 1 / 257, ("16-bit", "scaled to 8 bits")
    else:
        raise UnfitError(
            "pixel format", f"{picture.mode} values from {low:g} to {high:g} have no known range"
        )
    eight_bits = np.round(values * scale).clip(0, 255).astype(np.uint8)
    return Image.fromarray(eight_bits), change


def _png(plain: Image.Image) -> bytes:
    file = io.BytesIO()
    plain.save(file, "PNG", compress_level=2)
    return file.getvalue()
