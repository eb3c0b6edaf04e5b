"""Image files without all but the pixels: losslessly, as nothing is decoded or encoded.

Photographs keep the bytes of their compressed pixels. As PNGs they would take ten times as much.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG_START, _JPEG_END, _JPEG_SCAN = b"\xff\xd8", 0xD9, 0xDA
_JPEG_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # all else within one is its data
_JPEG_TABLES = {0xC4, 0xCC, 0xDB, 0xDC, 0xDD}  # Huffman, arithmetic, quantisation, lines, restarts
_JPEG_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_COLOURS = {0xE0: b"JFIF\0", 0xEE: b"Adobe"}  # the application data that colours depend on
_WEBP_PIXELS = (b"VP8 ", b"VP8L")


def without_metadata(image: bytes, file_format: str | None) -> bytes | None:
    """A file of opaque pixels without EXIF, profiles, texts, thumbnails and what follows its end.

    Args:
        image: A file that Pillow can open.
        file_format: Pillow's name of its format.

    Returns:
        A file that decodes to the same pixels; None for other formats than JPEG, PNG and WebP, and
        for files that are cut or built in an unusual way.
    """
    plain = _KINDS.get(file_format or "")
    return None if plain is None else plain(image)


def jpeg_size(image: bytes) -> tuple[int, int] | None:
    """(width, height) as a JPEG's headers say, which go on to its first scan; None if unusual."""
    size: tuple[int, int] | None = None
    at = 2
    while image.startswith(_JPEG_START) and at + 9 <= len(image) and image[at] == 0xFF:
        marker = image[at + 1]
        if marker == _JPEG_SCAN:
            return size
        if not (0xC0 <= marker <= 0xCF or 0xDB <= marker <= 0xFE):
            return None
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack(">HH", image[at + 5 : at + 9])
            size = (width, height) if width and height else None
        at += 2 + int.from_bytes(image[at + 2 : at + 4], "big")
    return None


def _jpeg(image: bytes) -> bytes | None:
    """Markers, each with its data's length; a scan's data follow it and end at the next marker."""
    if not image.startswith(_JPEG_START):
        return None
    parts, at = [_JPEG_START], 2
    while at + 4 <= len(image) and image[at] == 0xFF:
        marker, end = image[at + 1], at + 2 + int.from_bytes(image[at + 2 : at + 4], "big")
        if marker == _JPEG_SCAN:
            after = _JPEG_AFTER_SCAN.search(image, end)
            if after is None:
                return None
            end = after.start()
            parts.append(image[at:end])
            if image[end + 1] == _JPEG_END:
                return b"".join([*parts, image[end : end + 2]])
        elif marker in _JPEG_TABLES or marker in _JPEG_FRAMES:
            parts.append(image[at:end])
        elif name := _JPEG_COLOURS.get(marker):
            if image.startswith(name, at + 4):
                parts.append(image[at:end])
        elif not (0xE0 <= marker <= 0xEF or marker == 0xFE):  # other applications, a comment
            return None
        at = end
    return None


def _png(image: bytes) -> bytes | None:
    """Chunks of length, name, data and checksum; critical ones have a name in capitals."""
    if not image.startswith(_PNG):
        return None
    parts, at = [_PNG], len(_PNG)
    while at + 12 <= len(image):
        end = at + 12 + int.from_bytes(image[at : at + 4], "big")
        name = image[at + 4 : at + 8]
        if name[:1].isupper():
            parts.append(image[at:end])
        if name == b"IEND":
            return b"".join(parts)
        at = end
    return None


def _webp(image: bytes) -> bytes | None:
    """Chunks of name, length and data, padded to even lengths, in one of RIFF."""
    end = 8 + int.from_bytes(image[4:8], "little")
    if not (image.startswith(b"RIFF") and image[8:12] == b"WEBP" and end <= len(image)):
        return None
    at = 12
    while at + 8 <= end:
        length = int.from_bytes(image[at + 4 : at + 8], "little")
        after = at + 8 + length + length % 2
        if image[at : at + 4] in _WEBP_PIXELS:
            content = b"WEBP" + image[at:after]
            return b"RIFF" + len(content).to_bytes(4, "little") + content
        at = after
    return None


_KINDS: dict[str, Callable[[bytes], bytes | None]] = {"JPEG": _jpeg, "PNG": _png, "WEBP": _webp}
