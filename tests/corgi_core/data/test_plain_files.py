"""Photographs pass the gate with the bytes of their pixels, and with nothing else."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from corgi_core.data.dataset import write_dataset
from corgi_core.data.normalise import UnfitError, normalise
from corgi_core.data.plain_files import jpeg_size, without_metadata
from corgi_core.data.quality import gate
from tests.helpers.made import SETTINGS, encoded, noise, sample
from tests.helpers.whole import quarantine_of

SECRET = b"where I live"
KINDS = {
    "JPEG": {}, "JPEG progressive": {"progressive": True}, "JPEG 4:2:0": {"subsampling": 2},
    "JPEG restarts": {"restart_marker_blocks": 1}, "JPEG RGB": {"keep_rgb": True},
    "WEBP": {}, "WEBP lossless": {"lossless": True}, "PNG": {},
}  # fmt: skip


def picture_of(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


def private(kind: str, picture: Image.Image, orientation: int = 1) -> bytes:
    """A file with EXIF, a profile and a comment, and with more behind its end."""
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = SECRET.decode(), orientation
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    name, more = kind.split()[0], dict(KINDS[kind])
    if name == "JPEG":
        more["comment"] = SECRET
    if name == "PNG":
        texts = PngImagePlugin.PngInfo()
        texts.add_text("Author", SECRET.decode())
        more["pnginfo"] = texts
    return encoded(picture, name, exif=exif, icc_profile=profile, **more) + SECRET


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_stay_as_they_are_and_all_else_goes(kind: str) -> None:
    file = private(kind, noise(kind, (40, 24)))
    assert SECRET in file
    found = normalise(file, 10_000, 64)
    assert SECRET not in found.image
    assert b"ICC" not in found.image
    assert len(found.image) < len(file) - len(SECRET)
    assert (picture_of(found.image) == picture_of(file)).all()
    assert found.suffix == {"JPEG": "jpg", "WEBP": "webp", "PNG": "png"}[kind.split()[0]]
    assert not found.changes
    again = normalise(found.image, 10_000, 64)
    assert (again.image, again.pixels) == (found.image, found.pixels)


@pytest.mark.parametrize(
    "file",
    [
        private("JPEG", noise("turned"), orientation=6),
        private("WEBP", noise("turned"), orientation=3),
        encoded(noise("grey", mode="L"), "JPEG"),
        encoded(noise("ink", mode="CMYK"), "JPEG"),
        encoded(noise("clear", mode="RGBA"), "WEBP", lossless=True),
        encoded(noise("clear", mode="RGBA"), "PNG"),
        encoded(noise("large", (80, 8)), "JPEG"),
        encoded(noise("a"), "WEBP", save_all=True, append_images=[noise("b")]),
        encoded(noise("bitmap"), "BMP"),
    ],
)
def test_what_has_to_change_becomes_a_png(file: bytes) -> None:
    found = normalise(file, 10_000, 64)
    assert found.suffix == "png"
    assert Image.open(io.BytesIO(found.image)).format == "PNG"
    assert not Image.open(io.BytesIO(found.image)).info


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_file_is_never_taken_for_a_whole_one(kind: str) -> None:
    """Wherever it is cut: it has no plain form, or Pillow finds the damage in what is left."""
    file = encoded(noise(kind, (40, 24)), kind.split()[0], **KINDS[kind])
    pixels = normalise(file, 10_000, 64).pixels
    for end in range(1, len(file) - 12, 7):  # a PNG's last chunk holds nothing
        try:
            found = normalise(file[:end], 10_000, 64)
        except UnfitError:
            continue
        assert found.pixels == pixels
    assert without_metadata(file[: len(file) // 2], kind.split()[0]) is None


def test_bytes_in_a_scan_are_no_markers() -> None:
    """A scan's own FF is followed by 00, a restart by D0 to D7; both stay."""
    file = encoded(noise("scan", (64, 64)), "JPEG", quality=100, restart_marker_blocks=2)
    scan = file[file.index(b"\xff\xda") :]
    assert b"\xff\x00" in scan
    assert b"\xff\xd1" in scan
    plain = without_metadata(file, "JPEG")
    assert plain is not None
    assert plain.endswith(scan)


def test_chunks_of_a_png_that_are_not_critical_go() -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    file = encoded(noise("png"))
    head, end = file[:33], file[33:]
    assert without_metadata(head + chunk(b"iTXt", SECRET) + end, "PNG") == file


def test_photographs_keep_their_bytes_and_duplicates_are_found_across_formats(
    tmp_path: Path,
) -> None:
    photo = encoded(noise("photo", (16, 16)), "JPEG")
    same_pixels = Image.fromarray(picture_of(photo))
    made = [
        sample("a", photo, suffix="jpeg"),
        sample("b", encoded(same_pixels, "PNG")),
        sample("c", private("JPEG", noise("other", (16, 16))), suffix="jpg"),
        sample("d", encoded(same_pixels, "BMP"), suffix="bmp"),
    ]
    raw = write_dataset(tmp_path / "raw", made, shard_size=2)
    gated = gate(raw, tmp_path / "gated", SETTINGS)
    files = {s.key: (s.suffix, s.image) for s in gated.samples()}
    assert files["a"] == ("jpg", photo)
    assert files.keys() == {"a", "c"}
    assert SECRET not in files["c"][1]
    quarantine = quarantine_of(gated)
    assert quarantine["key"].tolist() == ["b", "d"]
    assert set(quarantine["detail"]) == {"has the same pixels as a"}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("JPEG")])
def test_a_jpegs_size_is_the_one_that_pillow_says(kind: str) -> None:
    file = private(kind, noise(kind, (40, 24)))
    assert jpeg_size(file) == Image.open(io.BytesIO(file)).size == (40, 24)
    scan = file.index(b"\xff\xda")
    assert jpeg_size(file[:scan]) is None
    assert jpeg_size(encoded(noise(kind))) is None


def test_a_jpeg_that_counts_its_lines_at_the_end_has_no_size_in_its_headers() -> None:
    file = bytearray(encoded(noise("lines"), "JPEG"))
    height = file.index(b"\xff\xc0") + 5
    file[height : height + 2] = b"\0\0"
    assert jpeg_size(bytes(file)) is None
