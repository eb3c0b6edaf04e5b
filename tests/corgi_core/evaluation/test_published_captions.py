"""The captions of COCO that a protocol names are those of the file, which is the published one."""

import hashlib
import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from corgi_core.errors import CorgiError
from corgi_core.evaluation import published_captions
from corgi_core.evaluation.held_out import HeldOut
from corgi_core.evaluation.protocol import NAMED
from corgi_core.evaluation.published_captions import check_captions_file

IMAGES, CAPTIONS = 40_504, 202_654  # public counts of captions_val2014.json


def annotation_file(images: int, captions: int) -> dict[str, Any]:
    """As COCO's; ids fall as positions rise, so an image's first caption is its last there."""
    return {
        "images": [
            {"id": 7 * n, "file_name": f"COCO_val2014_{7 * n:012d}.jpg"} for n in range(images)
        ],
        "annotations": [
            {"id": captions - n, "image_id": 7 * (n % images), "caption": f"A  thing {n}\n"}
            for n in range(captions)
        ],
    }


SMALL = annotation_file(3, 7)
HELD_OUT = HeldOut(
    ("00000", "00000"),
    ("val2014/COCO_val2014_000000000000", "val2017/000000000014"),
    ("A thing 6", "A thing 5"),
)


def written(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_published_file_is_known_by_its_counts_and_numbers(tmp_path: Path) -> None:
    path = written(tmp_path / "mine.json", annotation_file(IMAGES, CAPTIONS))
    last = {0: 5 * IMAGES, 14: 2 + 5 * IMAGES}  # positions of the first captions of two images
    last = {number: at if at < CAPTIONS else at - IMAGES for number, at in last.items()}
    captions = tuple(f"A thing {at}" for at in last.values())
    held_out = HeldOut(HELD_OUT.shards, HELD_OUT.keys, captions)
    assert check_captions_file(path, None, held_out) == "captions_val2014.json"
    assert NAMED["coco-fid-30k"]["captions_file"] == "captions_val2014.json"
    assert NAMED["coco-cosine-10k"]["captions_file"] == "captions_val2014.json"


def test_a_file_of_a_given_digest_is_taken_by_its_own_name(tmp_path: Path) -> None:
    path = written(tmp_path / "mended.json", SMALL)
    assert check_captions_file(path, sha256(path).upper(), HELD_OUT) == "mended.json"
    with pytest.raises(CorgiError, match=r"mended\.json: its SHA-256 is"):
        check_captions_file(path, "0" * 64, HELD_OUT)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("images has 4", lambda a: a["images"].append(a["images"][0])),
        ("images.id has 2", lambda a: a["images"][1].update(id=0)),
        ("annotations has 6", lambda a: a["annotations"].pop()),
        ("annotations.id has 6", lambda a: a["annotations"][1].update(id=7)),
        ("images.file_name of 7", lambda a: a["images"][1].update(file_name="000007.jpg")),
        ("annotations.image_id 9", lambda a: a["annotations"][1].update(image_id=9)),
        ("images is no list", lambda a: a.update(images={})),
        ("annotations is no list", lambda a: a["annotations"][0].pop("image_id")),
        ("annotations is no list", lambda a: a["annotations"][0].update(image_id=[7])),
        ("annotations is no list", lambda a: a["annotations"][6].update(id="7")),
        ("images is no list", lambda a: a["images"][1].update(id={})),
        ("images is no list", lambda a: a["images"][0].update(id=False)),
    ],
)
def test_another_file_is_refused_by_file_and_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str, change: Any
) -> None:
    monkeypatch.setattr(published_captions, "IMAGES", 3)
    monkeypatch.setattr(published_captions, "CAPTIONS", 7)
    path = written(tmp_path / "captions.json", SMALL)
    assert check_captions_file(path, None, HELD_OUT)
    other = deepcopy(SMALL)
    change(other)
    with pytest.raises(CorgiError) as error:
        check_captions_file(written(path, other), None, HELD_OUT)
    assert f"{path}: {field}" in error.value.problem
    assert "evaluation.captions_sha256" in error.value.remedy


@pytest.mark.parametrize("broken", [b"", b"[1", b"\xff"])
def test_a_file_that_is_none_is_refused(tmp_path: Path, broken: bytes) -> None:
    path = tmp_path / "captions.json"
    with pytest.raises(CorgiError, match="cannot be read"):
        check_captions_file(path, None, HELD_OUT)
    path.write_bytes(broken)
    with pytest.raises(CorgiError, match="holds no captions of COCO"):
        check_captions_file(path, None, HELD_OUT)


@pytest.mark.parametrize(
    ("keys", "captions", "there"),
    [
        (HELD_OUT.keys, ("A thing 6", "another"), "has 'A thing 5'"),
        (("val2014/COCO_val2014_000000000000", "photo"), HELD_OUT.captions, "has none"),
        (("val2014/COCO_val2014_000000000008", "photo"), HELD_OUT.captions, "has none"),
    ],
)
def test_captions_of_another_file_are_refused(
    tmp_path: Path, keys: tuple[str, str], captions: tuple[str, str], there: str
) -> None:
    path = written(tmp_path / "captions.json", SMALL)
    with pytest.raises(CorgiError) as error:
        check_captions_file(path, sha256(path), HeldOut(("0", "0"), keys, captions))
    assert f"{path}: annotations.caption {there} as the first caption of" in error.value.problem
