"""MS-COCO's own files: captions by annotation id, splits by file, faults that cost themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from upath import UPath

from corgi_core.data.formats import READERS
from corgi_core.data.ingest import ingest
from corgi_core.data.quality import gate
from corgi_core.errors import CorgiError
from tests.helpers.made import SETTINGS, encoded, folder_with, noise
from tests.helpers.readings import reading, reasons
from tests.helpers.whole import quarantine_of, skipped_of

LICENCES = [
    {"id": 1, "name": "Attribution-NonCommercial-ShareAlike License",
     "url": "http://creativecommons.org/licenses/by-nc-sa/2.0/"},
    {"id": 4, "name": "Attribution License", "url": "http://creativecommons.org/licenses/by/2.0/"},
]  # fmt: skip


def jpeg(name: str) -> bytes:
    return encoded(noise(name), "JPEG")


def image(number: int, name: str, licence: int = 4) -> dict[str, Any]:
    """An image's record as COCO has it."""
    return {
        "license": licence, "file_name": name, "height": 8, "width": 8, "id": number,
        "coco_url": f"http://images.cocodataset.org/{name}", "flickr_url": "http://flickr.com/x",
        "date_captured": "2013-11-14 17:02:52",
    }  # fmt: skip


def note(number: int, of: int, caption: object) -> dict[str, Any]:
    return {"image_id": of, "id": number, "caption": caption}


def annotation_file(images: list[Any], notes: list[Any]) -> str:
    info = {"description": "COCO 2017 Dataset", "url": "http://cocodataset.org", "year": 2017}
    return json.dumps({"info": info, "licenses": LICENCES, "images": images, "annotations": notes})


TRAIN = annotation_file(
    [image(9, "000000000009.jpg", 1), image(25, "000000000025.jpg"), image(30, "000000000030.jpg")],
    [note(9000, 25, "a giraffe"), note(700, 9, "third"), note(35, 9, "first"),
     note(8, 25, "two giraffes"), note(44, 9, "second")],
)  # fmt: skip
VAL = annotation_file([image(139, "000000000139.jpg")], [note(1, 139, "a living room")])
COCO: dict[str, bytes | str] = {
    "annotations/captions_train2017.json": TRAIN,
    "annotations/captions_val2017.json": VAL,
    "annotations/instances_val2017.json": "{}",
    "train2017/000000000009.jpg": jpeg("9"),
    "train2017/000000000025.jpg": jpeg("25"),
    "train2017/000000000030.jpg": jpeg("30"),
    "val2017/000000000139.jpg": jpeg("139"),
    "test2017/000000000001.jpg": jpeg("1"),
}


def test_captions_are_in_the_order_of_their_ids_and_files_give_the_split(tmp_path: Path) -> None:
    samples, skipped = reading("coco", folder_with(tmp_path, COCO))
    assert {key: (s.captions, s.split, s.source) for key, s in samples.items()} == {
        "train2017/000000000009": (
            ["first", "second", "third"], "train",
            "coco (Attribution-NonCommercial-ShareAlike License)",
        ),
        "train2017/000000000025": (
            ["two giraffes", "a giraffe"], "train", "coco (Attribution License)",
        ),
        "train2017/000000000030": (None, "train", "coco (Attribution License)"),
        "val2017/000000000139": (["a living room"], "validation", "coco (Attribution License)"),
    }  # fmt: skip
    assert all(s.image == COCO[f"{key}.jpg"] and s.suffix == "jpg" for key, s in samples.items())
    assert reasons(skipped) == {
        "annotations/instances_val2017.json": "not an image (.json)",
        "test2017/000000000001.jpg": "an image that is not listed",
    }


def test_images_below_a_folder_of_their_own(tmp_path: Path) -> None:
    files = {name.replace("val2017/", "images/val2017/"): each for name, each in COCO.items()}
    samples, _ = reading("coco", folder_with(tmp_path / "up", files))
    assert samples["images/val2017/000000000139"].captions == ["a living room"]
    deeper, _ = reading("coco", UPath(tmp_path))
    assert len(deeper) == len(samples)


def test_photographs_of_2014_are_not_read_again_in_2017(tmp_path: Path) -> None:
    """Photograph 139 is in val2014 and val2017, 25 is in val2014 and train2017."""
    numbers = {9: "train", 139: "val", 25: "val", 42: "val"}
    names = [(number, f"COCO_{split}2014_{number:012d}.jpg") for number, split in numbers.items()]
    train, *val = [image(number, name) for number, name in names]
    of_2014: dict[str, bytes | str] = {
        "annotations/captions_train2014.json": annotation_file([train], [note(1, 9, "of 2014")]),
        "annotations/captions_val2014.json": annotation_file(val, [note(2, 42, "a hat")]),
        **{f"{name.split('_')[1]}/{name}": jpeg(name) for _, name in names},
    }
    alone, _ = reading("coco", folder_with(tmp_path / "2014", of_2014))
    assert {key: s.split for key, s in alone.items()} == {
        "train2014/COCO_train2014_000000000009": "train",
        "val2014/COCO_val2014_000000000139": "validation",
        "val2014/COCO_val2014_000000000025": "validation",
        "val2014/COCO_val2014_000000000042": "validation",
    }
    both, skipped = reading("coco", folder_with(tmp_path / "both", {**of_2014, **COCO}))
    splits = {key[-2:]: s.split for key, s in both.items()}
    assert splits == {
        "09": "train", "25": "train", "30": "train", "39": "validation", "42": "validation"
    }  # fmt: skip
    again = [path for path, reason in reasons(skipped).items() if "earlier file" in reason]
    assert again == [
        "annotations/captions_train2017.json, image 9",
        "annotations/captions_val2014.json, image 25",
        "annotations/captions_val2017.json, image 139",
    ]


def test_without_captions_of_test_images_the_owners_validation_is_the_test(tmp_path: Path) -> None:
    """As in the papers on COCO; a part of the training images is for validation."""
    source = folder_with(tmp_path / "coco", COCO)
    dataset = ingest("coco", str(source), tmp_path / "raw", SETTINGS, 0)
    assert dataset.owners_splits == ["train", "validation"]
    assert dataset.keys("test") == ("val2017/000000000139",)
    assert len(dataset.keys("validation")) == 1
    assert len(dataset.keys("train")) == 2


def test_a_photograph_is_for_training_where_any_file_says_so(tmp_path: Path) -> None:
    held_out = annotation_file([image(25, "000000000025.jpg")], [note(1, 25, "held out")])
    path = folder_with(tmp_path, {**COCO, "annotations/captions_dev2017.json": held_out})
    samples, skipped = reading("coco", path)
    assert samples["train2017/000000000025"].split == "train"
    assert "annotations/captions_dev2017.json, image 25" in skipped


def test_images_that_differ_in_their_suffix_alone_have_one_key(tmp_path: Path) -> None:
    entries = [image(1, "a.jpg"), image(2, "a.png"), image(3, "a.jpg"), image(4, "b.jpg")]
    files: dict[str, bytes | str] = {
        "annotations/captions_train.json": annotation_file(entries, []),
        **{f"train/{name}": jpeg(name) for name in ("a.jpg", "a.png", "b.jpg")},
    }
    samples, skipped = reading("coco", folder_with(tmp_path, files))
    assert list(samples) == ["train/a", "train/b"]
    assert samples["train/a"].image == files["train/a.jpg"]
    name = "annotations/captions_train.json"
    assert {path: each.detail for path, each in skipped.items()} == {
        f"{name}, image 2": "train/a.jpg",
        f"{name}, image 3": "train/a.jpg",
    }


def test_numbers_of_other_data_in_this_format_may_be_the_same_in_two_files(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {}
    for folder in ("train", "test"):
        files[f"{folder}/1.jpg"] = jpeg(folder)
        notes = [note(1, 1, f"in {folder}")]
        files[f"annotations/captions_{folder}.json"] = annotation_file([image(1, "1.jpg")], notes)
    samples, skipped = reading("coco", folder_with(tmp_path, files))
    assert {key: (s.split, s.captions) for key, s in samples.items()} == {
        "train/1": ("train", ["in train"]),
        "test/1": ("test", ["in test"]),
    }
    assert not skipped


ENTRIES = [
    image(9, "000000000009.jpg"), image(9, "000000000025.jpg"), image(25, "000000000025.jpg"),
    image(77, "000000000077.jpg"), image(78, ""), {"file_name": "x.jpg"}, "no record",
    image(79, "000000000009.jpg"),
]  # fmt: skip
NOTES = [
    note(1, 9, "good"), note(2, 404, "of none"), note(3, 9, None), note(4, 9, {"en": "cat"}),
    note(5, 9, "  "), "no record", {"id": 6, "caption": "no image"}, note(7, 25, "caf\udce9"),
    note(8, 25, "also good"),
]  # fmt: skip


def test_a_fault_costs_itself_alone_and_is_named_with_file_and_id(tmp_path: Path) -> None:
    faulty = annotation_file(ENTRIES, NOTES).replace("caf\\udce9", "café").encode("latin-1")
    name = "annotations/captions_train2017.json"
    path = folder_with(tmp_path / "in", {**COCO, name: faulty})
    samples, skipped = reading("coco", path)
    assert {key: s.captions for key, s in samples.items()} == {
        "train2017/000000000009": ["good", "  "],
        "train2017/000000000025": ["caf\ufffd", "also good"],
        "val2017/000000000139": ["a living room"],
    }
    named = {each.removeprefix(f"{name}, "): reason for each, reason in reasons(skipped).items()}
    assert (
        named.items()
        >= {
            "image 9": "an id that is there before",
            "image 77": "names no image that is there",
            "image 78": "row without file_name",
            "image entry 6": "row without id",
            "image entry 7": "row without id",
            "image 79": "a photograph that an earlier file has",
            "annotation 2": "names no image that is listed",
            "annotation 3": "unusable caption",
            "annotation 4": "unusable caption",
            "annotation entry 6": "not a JSON object",
            "annotation 6": "names no image that is listed",
        }.items()
    )
    assert "download it into train2017/" in skipped[f"{name}, image 77"].detail

    raw = ingest("coco", str(path), tmp_path / "raw", SETTINGS, 0)
    images = gate(raw, tmp_path / "images", SETTINGS)
    dropped = quarantine_of(images)
    assert dropped[["key", "reason"]].to_dict("split")["data"] == [
        ["train2017/000000000009", "empty caption"],
        ["train2017/000000000025", "caption is not UTF-8"],
    ]
    assert len(skipped_of(raw)) == len(skipped)


@pytest.mark.parametrize("torn", [TRAIN[:300], "[]", '{"images": []}', "[" * 100_000])
def test_a_file_of_annotations_that_cannot_be_read_costs_itself(tmp_path: Path, torn: str) -> None:
    path = folder_with(tmp_path, {**COCO, "annotations/captions_train2017.json": torn})
    samples, skipped = reading("coco", path)
    assert list(samples) == ["val2017/000000000139"]
    assert "annotations/captions_train2017.json" in skipped


def test_another_field_may_hold_the_captions(tmp_path: Path) -> None:
    notes = [{"image_id": 139, "id": 1, "caption": "short", "long": "a long one"}]
    files = {**COCO, "annotations/captions_val2017.json":
             annotation_file([image(139, "000000000139.jpg")], notes)}  # fmt: skip
    path = folder_with(tmp_path, files)
    assert reading("coco", path, "long")[0]["val2017/000000000139"].captions == ["a long one"]
    with pytest.raises(CorgiError, match=r"'headline'.*caption, id, image_id, long"):
        reading("coco", path, "headline")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("annotations", ["no images", "; perhaps /"]),
        ("train2017", ["no captions_train2017.json", "; perhaps /"]),
        ("nowhere", ["no folder", "annotations/captions_train2017.json and train2017/"]),
        ("other", ["no captions_train2017.json", "annotations/captions_train2017.json"]),
    ],
)
def test_a_wrong_folder_is_answered_with_the_right_one(
    tmp_path: Path, wrong: str, words: list[str]
) -> None:
    folder_with(tmp_path / "coco", COCO)
    folder_with(tmp_path / "coco" / "other" / "deeper", {"cat.jpg": jpeg("cat")})
    path = UPath(tmp_path / "coco" / (wrong if wrong != "other" else "other/deeper"))
    with pytest.raises(CorgiError) as error:
        list(READERS["coco"](path, None))
    assert all(word in str(error.value) for word in words), str(error.value)
