"""Images that a dataset's own lists name: each is read once, and what is not listed is named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from upath import UPath

from corgi_core.data.formats.conventions import IMAGE_SUFFIXES, Captions, Skipped, numbered_lines
from corgi_core.data.formats.names import ImageNames, key_of, suffix_of
from corgi_core.data.formats.walk import content_of, files_below, is_wanted, not_an_image
from corgi_core.data.shards import Sample


class ListedImages:
    """The files below a folder, for a reader whose lists say which images to take.

    Attributes:
        files: Every file, by its path below the folder.
        skipped: What was passed over while the folder was walked.
    """

    def __init__(self, root: Path | UPath) -> None:
        self.files, self.skipped = files_below(root)
        self._images = [name for name in self.files if suffix_of(name) in IMAGE_SUFFIXES]
        self._names = ImageNames(root, self._images)
        self._listed: set[str] = set()  # images
        self._by_key: dict[str, str] = {}  # those that were read

    def has_images(self) -> bool:
        """Whether there is an image at all."""
        return bool(self._images)

    def found(self, *names: str) -> str | None:
        """The image that is called by the first of the `names` that calls one; None for none."""
        images = (self._names.found(name, "") for name in names)
        return next((image for image in images if image is not None), None)

    def sample(
        self, image: str, where: str, captions: list[str] | None, split: str | None, source: str
    ) -> Sample | Skipped:
        """An image with what its list says of it, or why it is passed over.

        Args:
            image: Its path below the folder, as `found` returned it.
            where: What listed it: the list, with the line or the id.
            captions: Its captions; None without any.
            split: "train", "validation", "test", or None to let Corgi split.
            source: The collection, with the licence where it is known.
        """
        self._listed.add(image)
        key = key_of(image)
        if key in self._by_key:
            return Skipped(where, "an image of that key is there before", self._by_key[key])
        self._by_key[key] = image
        if not is_wanted(image):
            return Skipped(image, "not asked for")
        content = content_of(image, self.files[image])
        if isinstance(content, Skipped):
            return content
        return Sample(key, content, captions, split, source, group=key, suffix=suffix_of(image))

    def captions(self, text: str | None, expected: str) -> Captions:
        """The captions of a text file, one a line; `expected` is where it would be if not None."""
        if text is None:
            return Captions(None, f"add {expected}")
        content = content_of(text, self.files[text])
        if isinstance(content, Skipped):
            return Captions(None, f"{text} cannot be read ({content.detail})")
        lines = [line for _, line in numbered_lines(content)]
        return Captions(lines) if lines else Captions(None, f"{text} holds no line")

    def others(self, used: Iterable[str]) -> Iterator[Skipped]:
        """Every file that was not listed: no image of a sample, and not among the `used` ones."""
        used, images = self._listed.union(used), set(self._images)
        for name in (name for name in self.files if name not in used):
            if name in images:
                yield Skipped(name, "an image that is not listed")
            else:
                yield not_an_image(name)
