"""Images' names: suffix, stem and key, and the image that a table or a list means by a name."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from posixpath import normpath

from upath import UPath


def suffix_of(name: str) -> str:
    """A file's suffix: lower case, no dot; a name without a dot is its own."""
    return name.rpartition("/")[2].rpartition(".")[2].lower()


def stem_of(name: str) -> str:
    """An image's path without its suffix."""
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.rpartition('.')[0]}"


def key_of(name: str) -> str:
    """The key of an image's name: without suffix, and without dots in its last part."""
    folder, slash, last = stem_of(name).rpartition("/")
    return f"{folder}{slash}{last.replace('.', '_')}"


class ImageNames:
    """Finds the image that a table or a list means, however it writes the name."""

    def __init__(self, root: Path | UPath, images: list[str]) -> None:
        self._root = str(root).replace("\\", "/").rstrip("/") + "/"
        self._names = {unicodedata.normalize("NFC", name): name for name in images}
        self._by_last_part: dict[str, list[str]] = {}
        for name in self._names:
            for last in {each.rpartition("/")[2] for each in (name, stem_of(name), key_of(name))}:
                self._by_last_part.setdefault(last, []).append(name)

    def holds(self, name: str) -> bool:
        """Whether `name` is an image's, as a table might write it."""
        return "." in name and self.found(name, "") is not None

    def found(self, name: str, folder: str) -> str | None:
        """The image called `name` in a table that lies in `folder`; None if there is none, or more.

        Names may be relative to the table, absolute, with backslashes, in another Unicode form,
        without suffix, keys, or relative to another folder where that leaves one image.
        """
        name = unicodedata.normalize("NFC", name.strip())
        for written in (name, name.replace("\\", "/")):
            relative = written.removeprefix(self._root)
            for path in (normpath(f"{folder}/{relative}").lstrip("/"), normpath(relative)):
                if path in self._names:
                    return self._names[path]
        ending = normpath(name.replace("\\", "/")).lstrip("./")
        last = ending.rpartition("/")[2]
        among = [
            image for image in self._by_last_part.get(last, [])
            if name.startswith("/") or any(
                f"/{each}".endswith(f"/{ending}")
                for each in (image, stem_of(image), key_of(image))
            )
        ]  # fmt: skip
        return self._names[among[0]] if len(among) == 1 else None
