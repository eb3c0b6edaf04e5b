"""Captions of any script are readable in picture grids."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from corgi_core.io import text_layout
from corgi_core.io.pictures import labelled_grid
from corgi_core.io.text_layout import displayable, wrap, write_lines

WIDTH = 220


@pytest.fixture
def no_other_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without fonts of its own."""
    monkeypatch.setattr(text_layout, "_system_fonts", list)
    text_layout._font_of.cache_clear()


def ink(text: str) -> np.ndarray:
    """Where the first line of `text` is dark."""
    sheet = Image.new("RGB", (WIDTH, 20), "white")
    write_lines(ImageDraw.Draw(sheet), 0, 0, wrap(text, WIDTH))
    return np.asarray(sheet.convert("L")) < 128


@pytest.mark.parametrize(
    "caption",
    ["Côte d'Ivoire", "Ελλάδα", "красная кошка", "חתול שחור", "قطة سوداء", "naïve cafe\u0301"],
)
def test_latin_greek_cyrillic_hebrew_and_arabic_are_written_as_they_are(caption: str) -> None:
    assert displayable(caption) == unicodedata.normalize("NFC", caption)
    assert ink(caption).any()


def test_no_letter_is_written_as_the_box_that_stands_for_a_missing_one() -> None:
    path = str(text_layout._dejavu())
    font = ImageFont.truetype(path, 40)
    box = bytes(font.getmask("\uffff"))
    for letter in "éäßŁЖяѣΩאשעב؟سﻻ":
        assert bytes(font.getmask(letter)) != box, letter


def test_hebrew_runs_from_right_to_left_with_its_numbers_and_brackets_the_right_way() -> None:
    order = text_layout._in_visual_order
    assert order("אבג", "R") == "גבא"
    assert order("אב 123 (גד)", "R") == "(דג) 123 בא"
    assert order("cat אבג dog", "L") == "cat גבא dog"


def test_arabic_letters_join_their_neighbours() -> None:
    shaped = text_layout._in_visual_order("سلام", "R")
    assert shaped == "\ufee1\ufefc\ufeb3"  # final meem, lam with alef, initial seen
    assert not set(map(ord, text_layout._in_visual_order("الله", "R"))) - set(
        text_layout._characters(text_layout._dejavu())
    )


def test_lines_of_a_hebrew_caption_follow_the_whole_captions_direction() -> None:
    lines = wrap("חתול שחור גדול יושב על מחצלת ירוקה ומביט אל החלון cat dog", WIDTH)
    assert len(lines) > 1
    assert text_layout._direction(" ".join(lines)) == "R"


@pytest.mark.usefixtures("no_other_fonts")
@pytest.mark.parametrize(
    ("caption", "written"),
    [
        ("a 🍎 here", "a [red apple] here"),
        ("👩‍🚀", "[woman astronaut]"),
        ("😀", "😀"),  # DejaVu has it
        ("\u2603\ufe0f", "\u2603"),
        ("中文 cat", "[U+4E2D U+6587] cat"),
        ("हिन्दी"[:1], "[U+0939]"),
        ("zero\u200bwidth", "zerowidth"),
        ("\U000f0000", "[U+F0000]"),
    ],
)
def test_what_no_font_has_is_written_as_its_name_or_code_point(caption: str, written: str) -> None:
    assert displayable(caption) == written


def test_a_font_of_the_machine_is_used_for_what_dejavu_lacks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A font that has 中: DejaVu Sans with the glyph of A under that code point."""
    from fontTools.ttLib import TTFont

    own = TTFont(text_layout._dejavu())
    for table in own["cmap"].tables:
        if table.isUnicode():
            table.cmap[ord("中")] = table.cmap[ord("A")]
    path = tmp_path / "own.ttf"
    own.save(path)
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    monkeypatch.setattr(text_layout, "_system_fonts", lambda: [tmp_path / "broken.ttf", path])
    text_layout._font_of.cache_clear()
    assert displayable("中 A") == "中 A"
    assert np.array_equal(ink("中"), ink("A"))
    text_layout._font_of.cache_clear()


def test_lines_are_no_wider_than_asked_for_even_without_spaces() -> None:
    for text in ("word " * 40, "w" * 200, "ж" * 200):
        lines = wrap(text, WIDTH)
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")
        assert max(map(text_layout._width, lines)) <= WIDTH
    assert wrap("", WIDTH) == []
    assert wrap("  ", WIDTH) == []


def test_a_grid_with_captions_of_every_script_is_made() -> None:
    captions = ["Côte d'Ivoire", "חתול", "кошка", "中文", "🍎", ""]
    sheet = np.asarray(labelled_grid(captions, {"real": np.ones((6, 3, 96, 96))}).convert("L"))
    rows = sheet[24:, :WIDTH].reshape(-1, WIDTH)
    assert (rows < 128).any()
