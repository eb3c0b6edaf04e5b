"""How known datasets lie on disk: to recognise them, and to say what a folder lacks."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from upath import UPath

from corgi_core.errors import CorgiError


class Layout(NamedTuple):
    """One dataset's files."""

    title: str
    marks: tuple[tuple[str, ...], ...]  # patterns; the files of one group give the layout away
    expected: str  # what its folder holds


LAYOUTS = {
    "coco": Layout(
        "MS-COCO's captions",
        (("annotations/captions_*.json",), ("*/annotations/captions_*.json",)),
        "annotations/captions_train2017.json and train2017/ (and the same for val2017, or 2014)",
    ),
    "cub": Layout(
        "CUB-200-2011",
        (("images.txt", "train_test_split.txt"), ("*/images.txt", "*/train_test_split.txt")),
        "CUB_200_2011/ (with images/, images.txt, train_test_split.txt) and text_c10/ or text/ "
        "(a CLASS/IMAGE.txt for every image)",
    ),
    "narratives": Layout(
        "Localized Narratives",
        tuple((f"{folder}{name}",) for folder in ("", "annotations/") for name in (
            "coco_*_captions.jsonl", "open_images_*_captions.jsonl", "flickr30k_*_captions.jsonl",
            "ade20k_*_captions.jsonl", "*_localized_narratives*.jsonl",
        )),
        "coco_train_captions.jsonl (or that of another collection) and its images, such as "
        "train2017/000000000139.jpg or train/0000f77c6257be58.jpg",
    ),
    "celeba": Layout(
        "Multi-modal CelebA-HQ",
        (("celeba-caption",), ("*/celeba-caption",)),
        "images/0.jpg, text/celeba-caption/0.txt and so on, with train.txt and test.txt",
    ),
    "img2dataset": Layout(
        "img2dataset's output",
        (("[0-9]*.tar", "[0-9]*.parquet"), ("*/00000.tar", "*/00000.parquet")),
        "00000.tar, 00000.parquet and so on, as img2dataset writes them with --output_format "
        "webdataset (what it writes with files is read by --format imagefolder)",
    ),
}  # fmt: skip


def layout_at(path: Path | UPath) -> str | None:
    """The format whose layout a folder has; None where it has none of them, or is no folder."""
    with suppress(OSError):
        if path.is_dir():
            return next((name for name, layout in LAYOUTS.items() if _has(path, layout)), None)
    return None


def _has(folder: Path | UPath, layout: Layout) -> bool:
    return any(
        all(next(iter(folder.glob(pattern)), None) is not None for pattern in group)
        for group in layout.marks
    )


def check_folder(path: Path | UPath | None, name: str) -> Path | UPath:
    """The folder to read; CorgiError where there is none."""
    if path is None or not path.is_dir():
        raise CorgiError(
            f"there is no folder {path}", f"name the folder that holds {LAYOUTS[name].expected}"
        )
    return path


def wrong_folder(path: Path | UPath, name: str, problem: str) -> CorgiError:
    """What to say where a folder has not the layout of the format `name`, though it should.

    Args:
        path: The folder.
        name: A key of `LAYOUTS`.
        problem: What is wrong with the folder, as the end of a sentence that begins with its path.
    """
    layout, other = LAYOUTS[name], layout_at(path)
    if other is not None and other != name:
        remedy = f"it has the layout of {LAYOUTS[other].title}: read it by --format {other}"
    else:
        above = f"; perhaps {path.parent}" if _has(path.parent, layout) else ""
        remedy = f"name the folder that holds {layout.expected}{above}"
    return CorgiError(f"{path} {problem}", remedy)


def no_such_column(path: Path | UPath | None, column: str, fields: Iterable[str]) -> CorgiError:
    """What to say where the caption column that was asked for is in none of the files."""
    present = ", ".join(sorted(fields)) or "no fields at all"
    return CorgiError(
        f"the data at {path} have no caption column {column!r}; they have {present}",
        "name the field that holds the captions by --caption-column",
    )
