"""CUB-200-2011 with the captions of Reed et al.: a text file of ten lines for every bird.

`CUB_200_2011/images.txt` numbers the images ("1 001.Black_footed_Albatross/NAME.jpg"), and
`train_test_split.txt` says of each number whether it is for training (1) or held out (0). The
captions of `images/CLASS/NAME.jpg` are in `text_c10/CLASS/NAME.txt` or `text/CLASS/NAME.txt`, in
that folder or beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from upath import UPath

from corgi_core.data.formats.conventions import Skipped, numbered_lines
from corgi_core.data.formats.layouts import check_folder, wrong_folder
from corgi_core.data.formats.listed import ListedImages
from corgi_core.data.formats.names import stem_of
from corgi_core.data.shards import Sample
from corgi_core.data.splits import TEST, TRAIN
from corgi_core.errors import CorgiError

_TEXT_FOLDERS = ("text", "text_c10")  # the second has the captions where both do
_SPLITS = {"1": TRAIN, "0": TEST}


def read(
    path: Path | UPath | None, caption_column: str | None = None
) -> Iterator[Sample | Skipped]:
    """Every image of `images.txt`, in its order; its captions are its text file's lines."""
    if caption_column is not None:
        raise CorgiError("CUB has no caption column", "leave --caption-column out")
    root = check_folder(path, "cub")
    images = ListedImages(root)
    lists = [name for name in images.files if f"/{name}".endswith("/images.txt")]
    if not lists:
        raise wrong_folder(root, "cub", "holds no images.txt")
    texts = _texts(images)
    if not texts:
        raise wrong_folder(root, "cub", "holds no captions: neither text_c10/ nor text/")
    yield from images.skipped
    images_list = min(lists, key=lambda name: name.count("/"))
    base = images_list.removesuffix("images.txt")
    splits: dict[str, str] = {}
    yield from _read_splits(f"{base}train_test_split.txt", images, splits)
    used = {images_list, f"{base}train_test_split.txt", *texts.values()}
    listed: set[str] = set()  # numbers and names
    for where, number, named in _rows(images_list, images):
        if not named or number in listed or named in listed:
            reason = "listed before, by number or by name" if named else "bad row"
            yield Skipped(where, reason, f"{number} {named}")
            continue
        listed |= {number, named}
        image = images.found(f"{base}images/{named}")
        if image is None:
            yield Skipped(where, "names no image that is there", named)
            continue
        stem = stem_of(named)
        captions = images.captions(texts.pop(stem, None), f"text_c10/{stem}.txt")
        if captions.fault:
            yield Skipped(image, "an image without captions", captions.fault)
        if splits and number not in splits:
            yield Skipped(where, "not in train_test_split.txt", f"{named} is for training")
        yield images.sample(image, where, captions.texts, splits.get(number), "cub")
    for text in texts.values():  # what no image took
        yield Skipped(text, "captions without an image of that name")
    yield from images.others(used)


def _texts(images: ListedImages) -> dict[str, str]:
    """The caption files by class and name, "001.Black_footed_Albatross/NAME"."""
    return {
        stem_of("/".join(name.split("/")[-2:])): name
        for folder in _TEXT_FOLDERS
        for name in images.files
        if name.endswith(".txt") and name.split("/")[-3:-2] == [folder]
    }


def _read_splits(name: str, images: ListedImages, splits: dict[str, str]) -> Iterator[Skipped]:
    """Add the split of every number to `splits`."""
    if name not in images.files:
        yield Skipped(name, "a list that is not there", "so Corgi splits, by a hash of the key")
        return
    for where, number, value in _rows(name, images):
        if value in _SPLITS and number not in splits:
            splits[number] = _SPLITS[value]
        else:
            yield Skipped(where, "bad row", f"{number} {value}: write NUMBER 1 or NUMBER 0, once")


def _rows(name: str, images: ListedImages) -> Iterator[tuple[str, str, str]]:
    """Where each line of a list is, its number, and what follows; "" where nothing does."""
    for position, line in numbered_lines(images.files[name].read_bytes()):
        number, _, rest = line.partition(" ")
        yield f"{name}, line {position}", number, rest.strip()
