"""The quality gate, met with real files of every kind that goes wrong."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from corgi_core.data.dataset import Dataset, write_dataset
from corgi_core.data.quality import fault_of, gate
from corgi_core.errors import CorgiError
from tests.helpers.made import SETTINGS, encoded, noise, sample, samples
from tests.helpers.whole import manifest_of, quarantine_of

ABOUT_PIXELS = {
    "jfif", "jfif_version", "jfif_unit", "jfif_density", "progressive", "progression",
    "loop", "background", "timestamp", "duration",  # of every WebP, one frame of it
}  # fmt: skip
GOOD = [sample("good-a", split="train"), sample("good-b", split="test")]


def passed(tmp_path, *made) -> tuple[dict[str, Image.Image], dict[str, tuple[str, str]], Dataset]:
    """The gated pictures by key, and (reason, action) by key."""
    raw = write_dataset(tmp_path / "raw", [*GOOD, *made], shard_size=3)
    gated = gate(raw, tmp_path / "gated", SETTINGS)
    pictures = {}
    for shard in gated.shards:
        for key, image in gated.images(shard):
            pictures[key] = Image.open(io.BytesIO(image))
            assert pictures[key].format in ("PNG", "JPEG", "WEBP")
            assert pictures[key].mode == "RGB"
            assert not pictures[key].info.keys() - ABOUT_PIXELS
    table = quarantine_of(gated).to_dict("records")
    return pictures, {row["key"]: (row["reason"], row["action"]) for row in table}, gated


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB")).astype(int)


def bomb(side: int) -> bytes:
    """A PNG whose header promises side × side pixels and whose data hold none."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def truncated(suffix: str) -> bytes:
    whole = encoded(noise("whole", (40, 40)), suffix)
    return whole[: len(whole) // 2]


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"", "empty file"),
        (b"<html>404 Not Found</html>", "unknown format"),
        (truncated("PNG"), "damaged"),
        (truncated("JPEG"), "damaged"),
        (truncated("GIF"), "damaged"),
        (truncated("WEBP"), "damaged"),
        (truncated("BMP"), "damaged"),
        (truncated("TIFF"), "damaged"),
        (encoded(noise("head"), "PNG")[:20], "damaged"),
        (bomb(101), "too many pixels"),
        (bomb(60_000), "too many pixels"),
        (encoded(noise("eps"), "EPS"), "unknown format"),  # would start Ghostscript
        (encoded(Image.fromarray(np.array([[0.5, 1e9]], np.float32)), "TIFF"), "pixel format"),
    ],
)
def test_what_cannot_be_used_is_quarantined(tmp_path, image, reason):
    pictures, faults, _ = passed(tmp_path, sample("bad", image))
    assert set(pictures) == {"good-a", "good-b"}
    assert faults == {"bad": (reason, "quarantined")}


@pytest.mark.parametrize("suffix", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_animations_keep_their_first_frame(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if suffix == "WEBP" else {}
    image = encoded(frames[0], suffix, save_all=True, append_images=frames[1:], **options)
    pictures, faults, _ = passed(tmp_path, sample("moving", image))
    assert abs(pixels(pictures["moving"]) - (255, 0, 0)).max() <= (1 if suffix == "MPO" else 0)
    assert faults == {"moving": ("animated", "normalised")}


def test_cmyk(tmp_path):
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    pictures, faults, _ = passed(tmp_path, sample("print", encoded(cmyk, "JPEG", quality=95)))
    assert abs(pixels(pictures["print"]) - (255, 0, 0)).max() <= 6
    assert faults == {"print": ("CMYK", "normalised")}


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    values = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    pictures, faults, _ = passed(tmp_path, sample("deep", encoded(Image.fromarray(values))))
    expected = np.round(values / 257)[..., None].repeat(3, -1)
    assert (pixels(pictures["deep"]) == expected).all()
    assert faults == {"deep": ("16-bit", "normalised")}


RAMP = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (RAMP, np.round(RAMP * 255)),
        (RAMP * 255, np.round(RAMP * 255)),
        (RAMP * 65535, np.round(RAMP * 255)),
        ((RAMP * 255).astype(np.int32), np.floor(RAMP * 255)),
        ((RAMP * 65535).astype(np.int32), np.round(np.floor(RAMP * 65535) / 257)),
        (RAMP * 2 - 1, None),  # negative
        (RAMP * 1.5, None),  # neither 0..1 nor 0..255
        (RAMP * 1023, None),
        ((RAMP * 2e9).astype(np.int32), None),
        (np.where(RAMP > 0.5, np.nan, RAMP), None),
        (np.where(RAMP > 0.5, np.inf, RAMP), None),
    ],
)  # fmt: skip
def test_wide_pixels_are_scaled_by_their_range_or_refused(tmp_path, values, expected):
    """Never black, never silently wrong."""
    tiff = encoded(Image.fromarray(values.astype(values.dtype)), "TIFF")
    pictures, faults, _ = passed(tmp_path, sample("wide", tiff))
    if expected is None:
        assert faults == {"wide": ("pixel format", "quarantined")}
        return
    found = pixels(pictures["wide"])
    assert abs(found - expected[..., None]).max() <= 1
    assert found.max() == 255
    assert faults["wide"][1] == "normalised"


def test_sixteen_bit_grey_of_every_format_keeps_its_range(tmp_path):
    """Also where it is dark: its largest value does not stretch it."""
    dark = (RAMP * 250).astype(np.uint16)
    pgm = b"P5 8 8 65535\n" + dark.T.astype(">u2").tobytes()
    png = encoded(Image.fromarray(dark))
    pictures, _, _ = passed(tmp_path, sample("png", png), sample("pgm", pgm))
    assert pixels(pictures["png"]).max() == 1
    assert pixels(pictures["pgm"]).max() == 1


def with_texts(size: int, kind: str) -> bytes:
    """A PNG with so many characters of text, or bytes of colour profile."""
    if kind == "icc":
        return encoded(noise(kind), icc_profile=b"\0" * size)
    texts = PngImagePlugin.PngInfo()
    for number in range(1 + 40 * (kind == "many")):
        if kind == "itxt":
            texts.add_itxt("XML:com.adobe.xmp", "x" * size, zip=True)
        else:
            texts.add_text(f"parameters{number}", "x" * size, zip=kind != "plain")
    return encoded(noise(kind), pnginfo=texts)


@pytest.mark.parametrize("kind", ["ztxt", "itxt", "plain", "icc", "many"])
def test_large_texts_and_profiles_are_dropped_and_the_picture_stays(tmp_path, kind):
    pictures, faults, _ = passed(tmp_path, sample("wordy", with_texts(2 << 20, kind)))
    assert (pixels(pictures["wordy"]) == pixels(noise(kind))).all()
    assert not faults


def test_a_damaged_picture_with_texts_stays_damaged(tmp_path):
    image = with_texts(2 << 20, "ztxt")
    _, faults, _ = passed(tmp_path, sample("torn", image[: len(image) - 60]))
    assert faults == {"torn": ("damaged", "quarantined")}


@pytest.mark.parametrize("suffix", ["JPEG2000", "ICO", "TGA", "DIB", "QOI", "PPM", "AVIF"])
def test_formats_that_pillow_reads_pass(tmp_path, suffix):
    picture = Image.linear_gradient("L").resize((32, 32)).convert("RGB")
    pictures, faults, _ = passed(tmp_path, sample("other", encoded(picture, suffix)))
    assert abs(pixels(pictures["other"]) - pixels(picture)).max() <= (8 if suffix == "AVIF" else 0)
    assert not faults


def test_transparency_of_every_kind_is_laid_on_white(tmp_path):
    colours = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    colours.paste((200, 0, 0, 255), (0, 0, 4, 8))
    colours.paste((0, 0, 0, 128), (4, 0, 8, 4))
    palette = ImageOps.mirror(colours).quantize(8)
    grey = colours.convert("LA")
    keyed = Image.new("L", (8, 8), 7)
    pictures, faults, _ = passed(
        tmp_path,
        sample("colours", encoded(colours)),
        sample("grey", encoded(grey)),
        sample("keyed", encoded(keyed, transparency=7)),
        sample("palette", encoded(palette)),
    )
    assert (pixels(pictures["colours"])[:, :4] == (200, 0, 0)).all()
    assert (pixels(pictures["colours"])[:4, 4:] == 127).all()
    assert (pixels(pictures["colours"])[4:, 4:] == 255).all()
    assert abs(pixels(pictures["palette"])[:, ::-1] - pixels(pictures["colours"])).max() <= 2
    assert (pixels(pictures["grey"])[4:, 4:] == 255).all()
    assert (pixels(pictures["keyed"]) == 255).all()
    assert not faults


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path, orientation):
    """The upright picture is one that Pillow's own transpositions take to the stored one."""
    upright = noise("upright", (6, 4))
    undo = [None, None, 0, 3, 1, 5, 2, 6, 4][orientation]  # Image.Transpose by EXIF's orientation
    stored = upright if undo is None else upright.transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[0x0112] = orientation
    pictures, faults, gated = passed(tmp_path, sample("turned", encoded(stored, exif=exif)))
    assert (pixels(pictures["turned"]) == pixels(upright)).all()
    row = manifest_of(gated).set_index("key").loc["turned"]
    assert (row["width"], row["height"]) == (6, 4)
    assert faults == ({} if orientation == 1 else {"turned": ("EXIF rotation", "normalised")})


@pytest.mark.parametrize("suffix", ["PNG", "JPEG"])
def test_oversize_is_scaled_down_in_proportion(tmp_path, suffix):
    smooth = Image.linear_gradient("L").resize((96, 48))
    pictures, faults, _ = passed(tmp_path, sample("wide", encoded(smooth, suffix)))
    assert pictures["wide"].size == (64, 32)
    assert abs(pixels(pictures["wide"]) - pixels(smooth.resize((64, 32)))).max() <= 6
    assert faults == {"wide": ("oversize", "normalised")}


def test_metadata_are_dropped(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = encoded(noise("private"), exif=exif, icc_profile=profile, dpi=(72, 72))
    passed(tmp_path, sample("private", image))  # which holds that `info` is empty


def test_duplicates_by_pixels_even_across_the_splits(tmp_path):
    picture = noise("same")
    made = [
        sample("x-first", encoded(picture), split="train"),
        sample("y-again", encoded(picture, "BMP"), split="test"),  # other bytes, same pixels
        sample("z-opaque", encoded(picture.convert("RGBA")), split="test"),
        sample("zz-other", encoded(noise("other"))),
    ]
    pictures, faults, gated = passed(tmp_path, *made)
    assert set(pictures) == {"good-a", "good-b", "x-first", "zz-other"}
    assert faults == dict.fromkeys(("y-again", "z-opaque"), ("duplicate", "quarantined"))
    assert quarantine_of(gated)["detail"].str.contains("x-first").all()
    assert manifest_of(gated)["sha256"].is_unique


def test_bad_captions_are_dropped_and_the_image_stays(tmp_path):
    made = [
        sample("all-bad", captions=["", " \n", "x" * 2001]),
        sample("bell", captions=["ding \a dong"]),
        sample("long", captions=["x" * 2000]),
        sample("not-utf8", captions=["caf\ufffd", " a  good\none "]),
        sample("silent", captions=None),
    ]
    _, _, gated = passed(tmp_path, *made)
    captions = manifest_of(gated).set_index("key")["captions"]
    assert captions["all-bad"] is None
    assert captions["bell"] is None
    assert captions["long"] == ["x" * 2000]
    assert captions["not-utf8"] == ["a good one"]
    assert captions["silent"] is None
    faults = quarantine_of(gated).groupby("key")["reason"].apply(list).to_dict()
    assert faults == {
        "all-bad": ["empty caption", "empty caption", "caption too long"],
        "bell": ["control characters in caption"],
        "not-utf8": ["caption is not UTF-8"],
    }


@pytest.mark.parametrize("caption", ["日本の犬", "naïve café", "👩🏽‍🚀", "a\ttab", "x" * 2000])
def test_captions_of_every_language_pass(caption):
    assert fault_of(caption) is None


def test_the_gate_is_deterministic_and_idempotent(tmp_path):
    raw = write_dataset(tmp_path / "raw", samples(9), shard_size=4)
    first = gate(raw, tmp_path / "first", SETTINGS)
    second = gate(raw, tmp_path / "second", SETTINGS)
    for file in ("manifest/00001.parquet", "quarantine/00001.parquet", "shards/00001.tar"):
        assert (first.folder / file).read_bytes() == (second.folder / file).read_bytes()
    again = gate(first, tmp_path / "again", SETTINGS)
    assert again.digest == first.digest
    assert quarantine_of(again).empty


def test_nothing_usable_is_an_error_and_leaves_nothing(tmp_path):
    raw = write_dataset(tmp_path / "raw", [sample("a", b""), sample("b", b"no")], shard_size=4)
    with pytest.raises(CorgiError, match="a: empty file"):
        gate(raw, tmp_path / "gated", SETTINGS)
    assert not (tmp_path / "gated").exists()
    with pytest.raises(CorgiError, match="has not passed the quality gate"):
        quarantine_of(raw)
