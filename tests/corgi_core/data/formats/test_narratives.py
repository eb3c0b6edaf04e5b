"""Localized Narratives: COCO's and Open Images' names, several lines an image, bad lines named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from upath import UPath

from corgi_core.data.formats import READERS
from corgi_core.errors import CorgiError
from tests.helpers.made import encoded, folder_with, noise
from tests.helpers.readings import reading, reasons


def jpeg(name: str) -> bytes:
    return encoded(noise(name), "JPEG")


def line(dataset: str, image: str, caption: object, annotator: int = 93) -> str:
    about = {"dataset_id": dataset, "image_id": image, "annotator_id": annotator}
    return json.dumps({**about, "caption": caption}) + "\n"


COCO: dict[str, bytes | str] = {
    "coco_train_captions.jsonl":
        line("mscoco_train2017", "9", "In this image there is food.")
        + line("mscoco_train2017", "25", "A giraffe.")
        + line("mscoco_train2017", "9", "I can see boxes.", 7),
    "coco_val_captions.jsonl": line("mscoco_val2017", "137576", "Cows stand and eat."),
    "train2017/000000000009.jpg": jpeg("9"),
    "train2017/000000000025.jpg": jpeg("25"),
    "train2017/000000000030.jpg": jpeg("30"),
    "val2017/000000137576.jpg": jpeg("137576"),
}  # fmt: skip


def test_cocos_numbers_find_their_images_and_every_line_is_a_caption(tmp_path: Path) -> None:
    samples, skipped = reading("narratives", folder_with(tmp_path, COCO))
    assert {key: (s.captions, s.split) for key, s in samples.items()} == {
        "train2017/000000000009": (["In this image there is food.", "I can see boxes."], "train"),
        "train2017/000000000025": (["A giraffe."], "train"),
        "val2017/000000137576": (["Cows stand and eat."], "validation"),
    }
    assert {s.source for s in samples.values()} == {"mscoco (captions CC-BY-4.0)"}
    assert all(s.image == COCO[f"{key}.jpg"] for key, s in samples.items())
    assert reasons(skipped) == {"train2017/000000000030.jpg": "an image that is not listed"}


def test_other_collections_and_the_files_with_traces(tmp_path: Path) -> None:
    traced = {
        "dataset_id": "open_images_train", "image_id": "0000f77c6257be58", "annotator_id": 1,
        "caption": "A bowl.", "traces": [[{"x": 0.2, "y": -0.05, "t": 0.02}]],
        "timed_caption": [{"utterance": "A bowl", "start_time": 0.0, "end_time": 0.4}],
        "voice_recording": "open_images_train/open_images_train_0000f77c6257be58_1.ogg",
    }  # fmt: skip
    files: dict[str, bytes | str] = {
        "annotations/open_images_train_v6_localized_narratives-00000-of-00010.jsonl":
            json.dumps(traced),
        "open_images_validation_captions.jsonl":
            line("no split in here", "0001eeaf4aed83f9", "An aeroplane."),
        "flickr30k_test_captions.jsonl": line("Flick30k_test", "1007129816", "A man."),
        "train/0000f77c6257be58.jpg": jpeg("oi"),
        "validation/0001eeaf4aed83f9.png": jpeg("oi val"),
        "flickr30k-images/1007129816.jpg": jpeg("flickr"),
    }  # fmt: skip
    samples, skipped = reading("narratives", folder_with(tmp_path, files))
    assert {key: (s.captions, s.split, s.source) for key, s in samples.items()} == {
        "train/0000f77c6257be58": (["A bowl."], "train", "open_images (captions CC-BY-4.0)"),
        "validation/0001eeaf4aed83f9": (
            ["An aeroplane."], "validation", "no split in here (captions CC-BY-4.0)"
        ),
        "flickr30k-images/1007129816": (["A man."], "test", "Flick30k (captions CC-BY-4.0)"),
    }  # fmt: skip
    assert not skipped


@pytest.mark.parametrize(
    ("bad", "reason", "detail"),
    [
        (b'{"image_id": ', "not a JSON object", "Expecting value"),
        (b'["9", "food"]', "not a JSON object", "list"),
        (b'{"dataset_id": "mscoco_train2017", "caption": "x"}', "row without image_id", "caption"),
        (line("mscoco_train2017", "9", None).encode(), "unusable caption", "9 has none"),
        (line("mscoco_train2017", "9", {"en": "x"}).encode(), "unusable caption", "record of en"),
        (line("mscoco_train2017", "404", "x").encode(), "names no image that is there", "404 of"),
        (line("mscoco_train2017", "../../9", "x").encode(), "names no image that is there", ".."),
    ],
)
def test_a_bad_line_costs_itself_alone(
    tmp_path: Path, bad: bytes, reason: str, detail: str
) -> None:
    name = "coco_train_captions.jsonl"
    lines = str(COCO[name]).encode().splitlines()
    content = b"\r\n".join([lines[0], b"", bad, *lines[1:]])
    samples, skipped = reading("narratives", folder_with(tmp_path, {**COCO, name: content}))
    assert samples["train2017/000000000009"].captions == [
        "In this image there is food.",
        "I can see boxes.",
    ]
    assert len(samples) == 3
    found = skipped[f"{name}, line 3"]
    assert found.reason == reason
    assert detail in found.detail


def test_captions_that_are_empty_or_not_utf8_are_left_to_the_gate(tmp_path: Path) -> None:
    name = "coco_train_captions.jsonl"
    content = line("mscoco_train2017", "9", "").encode()
    content += line("mscoco_train2017", "25", "caf?").replace("?", "é").encode("latin-1")
    samples, _ = reading("narratives", folder_with(tmp_path, {**COCO, name: content}))
    assert samples["train2017/000000000009"].captions == [""]
    assert samples["train2017/000000000025"].captions == ["caf\ufffd"]


def test_another_field_may_hold_the_captions(tmp_path: Path) -> None:
    row = json.dumps({"dataset_id": "mscoco_val2017", "image_id": 137576, "summary": "Cows."})
    path = folder_with(tmp_path, {**COCO, "coco_val_captions.jsonl": row})
    samples, _ = reading("narratives", path, "summary")
    assert samples["val2017/000000137576"].captions == ["Cows."]
    with pytest.raises(CorgiError, match=r"'headline'.*image_id"):
        reading("narratives", path, "headline")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("train2017", ["_captions.jsonl", "; perhaps /"]),
        ("lines", ["narratives and no images", "its images, such as train2017/000000000139.jpg"]),
        ("gone", ["no folder", "coco_train_captions.jsonl"]),
    ],
)
def test_a_wrong_folder_is_answered_with_the_right_one(
    tmp_path: Path, wrong: str, words: list[str]
) -> None:
    folder_with(tmp_path, COCO)
    folder_with(tmp_path / "down" / "lines", {"coco_val_captions.jsonl": ""})
    path = UPath(tmp_path / ("down/lines" if wrong == "lines" else wrong))
    with pytest.raises(CorgiError) as error:
        list(READERS["narratives"](path, None))
    assert all(word in str(error.value) for word in words), str(error.value)
