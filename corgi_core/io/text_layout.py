"""Captions in pictures, in any script: broken into lines and written in their direction.

DejaVu Sans, which matplotlib carries, has Latin, Greek, Cyrillic, Hebrew and Arabic. A character
of another script is written with the first font of this machine that has it. Where none has, an
emoji is written as its name and another character as its code point: [red apple], [U+4E2D].
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import ImageFont

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

FONT_SIZE = 13  # pixels
LINE_HEIGHT = 18  # pixels from one baseline to the next
ASCENT = 13  # pixels of a line above its baseline
INK = (40, 40, 40)
INVISIBLE = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufe00-\ufe0f\ufeff]")


def displayable(text: str) -> str:
    """`text` in composed characters (NFC), each of which some font of this machine has."""
    import emoji

    def emoji_or_name(sequence: str, names: dict[str, str]) -> str:
        character = INVISIBLE.sub("", sequence)
        if len(character) == 1 and _font_of(character):
            return character
        return f"[{names['en'].strip(':').replace('_', ' ')}]"

    text = unicodedata.normalize("NFC", text)
    text = INVISIBLE.sub("", emoji.replace_emoji(text, emoji_or_name))
    parts = []
    for has_font, run in groupby(text, lambda c: c.isspace() or _font_of(c) is not None):
        characters = list(run)
        code_points = " ".join(f"U+{ord(character):04X}" for character in characters)
        parts.append("".join(characters) if has_font else f"[{code_points}]")
    return "".join(parts)


def wrap(text: str, width: int) -> list[str]:
    """Break `text` into lines of at most `width` pixels, between words where that is possible."""
    lines: list[str] = []
    line = ""
    for word in displayable(text).split():
        if _width(f"{line} {word}".lstrip()) <= width:
            line = f"{line} {word}".lstrip()
            continue
        if line:
            lines.append(line)
        line = ""
        for character in word:
            if line and _width(line + character) > width:
                lines.append(line)
                line = ""
            line += character
    return [*lines, line] if line else lines


def height(lines: Sequence[str]) -> int:
    """Pixels that the lines take."""
    return len(lines) * LINE_HEIGHT


def write_lines(canvas: ImageDraw, left: int, top: int, lines: Sequence[str]) -> None:
    """Write lines made by `wrap`, the first one's upper left corner at (left, top)."""
    direction = _direction(" ".join(lines))
    for number, line in enumerate(lines):
        x, baseline = float(left), top + ASCENT + number * LINE_HEIGHT
        for font, run in _runs(_in_visual_order(line, direction)):
            canvas.text((x, baseline), run, INK, font, anchor="ls")
            x += font.getlength(run)


def _direction(text: str) -> str:
    """Whether the first letter that has a direction is written from right to left: "R", or "L"."""
    from bidi.algorithm import get_base_level

    return "R" if get_base_level(text) else "L"


def _in_visual_order(line: str, direction: str) -> str:
    """The line from left to right, Arabic letters in the forms that their neighbours ask for."""
    from arabic_reshaper import ArabicReshaper
    from bidi.algorithm import get_display  # which mirrors brackets, as bidi.get_display does not

    # DejaVu has no such ligature.
    letters = ArabicReshaper({"ARABIC LIGATURE ALLAH": "no"}).reshape(line)
    return str(get_display(letters, base_dir=direction))


def _width(line: str) -> float:
    return sum(font.getlength(run) for font, run in _runs(line))


def _runs(line: str) -> Iterator[tuple[ImageFont.FreeTypeFont, str]]:
    """Parts of the line that one font has."""
    for path, characters in groupby(line, lambda character: _font_of(character) or _dejavu()):
        yield _font(path), "".join(characters)


@cache
def _font(path: Path) -> ImageFont.FreeTypeFont:
    # Pillow's basic layout: its other one needs a library that not every machine has.
    return ImageFont.truetype(path, FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)


@cache
def _font_of(character: str) -> Path | None:
    """The first font that has the character."""
    if ord(character) in _characters(_dejavu()):
        return _dejavu()
    return next((path for path in _system_fonts() if ord(character) in _characters(path)), None)


@cache
def _dejavu() -> Path:
    from matplotlib import get_data_path

    return Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


@cache
def _system_fonts() -> list[Path]:
    from matplotlib.font_manager import findSystemFonts

    return sorted(map(Path, findSystemFonts()))


@cache
def _characters(path: Path) -> frozenset[int]:
    """The code points of a font; none where it cannot be scaled or read."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
    except (OSError, RuntimeError):
        return frozenset()
    return frozenset(font.get_charmap()) if font.scalable else frozenset()
