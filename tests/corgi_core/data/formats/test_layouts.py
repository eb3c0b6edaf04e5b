"""Layouts of known datasets are recognised, and no other folder is taken for one of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from upath import UPath

from corgi_core.data.formats import READERS
from corgi_core.data.formats.layouts import LAYOUTS, layout_at, wrong_folder
from tests.helpers.made import folder_with

FILES = {
    "coco": ["annotations/captions_val2017.json", "val2017/000000000139.jpg"],
    "cub": ["CUB_200_2011/images.txt", "CUB_200_2011/train_test_split.txt"],
    "narratives": ["open_images_validation_captions.jsonl", "validation/0001eeaf4aed83f9.jpg"],
    "celeba": ["text/celeba-caption/0.txt", "images/0.jpg"],
    "img2dataset": ["00000.tar", "00000.parquet", "00000_stats.json"],
}


@pytest.mark.parametrize("format", FILES)
def test_each_layout_is_recognised_as_itself(tmp_path: Path, format: str) -> None:
    folder = folder_with(tmp_path / "in", dict.fromkeys(FILES[format], ""))
    assert layout_at(folder) == format
    assert FILES.keys() == LAYOUTS.keys() <= READERS.keys()


@pytest.mark.parametrize(
    "names",
    [
        ["a.jpg", "metadata.jsonl"],
        ["captions.json", "captions.jsonl", "my_captions.jsonl", "train/a.jpg", "train/a.txt"],
        ["00000.tar", "00001.tar"],
        ["shards/00000.tar", "manifest.parquet"],
        ["img_emb/img_emb_0.npy", "metadata/metadata_0.parquet"],
        ["images.txt", "images/a.jpg"],
    ],
)
def test_other_folders_are_none_of_them(tmp_path: Path, names: list[str]) -> None:
    folder = folder_with(tmp_path / "in", dict.fromkeys(names, ""))
    assert layout_at(folder) is None


def test_a_file_and_what_is_not_there_have_no_layout(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "in", {"00000.tar": "", "00000.parquet": ""})
    assert layout_at(folder / "00000.tar") is None
    assert layout_at(UPath(tmp_path / "gone")) is None


def test_another_datasets_folder_is_answered_with_its_format(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "in", dict.fromkeys(FILES["celeba"], ""))
    error = wrong_folder(folder, "cub", "holds no images.txt")
    assert error.problem == f"{folder} holds no images.txt"
    assert error.remedy.endswith("Multi-modal CelebA-HQ: read it by --format celeba")
