"""Multi-modal CelebA-HQ: ten captions a number, splits from text alone, never from a pickle."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from upath import UPath

from corgi_core.data.formats import READERS
from corgi_core.errors import CorgiError
from tests.helpers.made import encoded, folder_with, noise
from tests.helpers.readings import reading, reasons

NUMBERS = (0, 2, 10, 29999)
FACES: dict[str, bytes | str] = {f"images/{n}.jpg": encoded(noise(str(n)), "JPEG") for n in NUMBERS}
CAPTIONS = {n: [f"face {n}, sentence {m}" for m in range(10)] for n in NUMBERS}
TEXTS: dict[str, bytes | str] = {
    f"text/celeba-caption/{n}.txt": "\n".join(CAPTIONS[n]) + "\n" for n in NUMBERS
}
CELEBA = {**FACES, **TEXTS}


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize(
    ("images", "texts"),
    [("images", "text/celeba-caption"), ("image/images", "celeba-caption"),
     ("CelebA-HQ-img", "text/celeba-caption")],
)  # fmt: skip
def test_ten_captions_a_face_in_the_order_of_the_numbers(
    tmp_path: Path, images: str, texts: str
) -> None:
    files = {name.replace("images", images).replace("text/celeba-caption", texts): content
             for name, content in CELEBA.items()}  # fmt: skip
    files |= {"mask/0.png": b"", "sketch/0.jpg": b"", "README.txt": "mine"}
    samples, skipped = reading("celeba", folder_with(tmp_path, files))
    assert {key: s.captions for key, s in samples.items()} == {
        f"{images}/{n}": CAPTIONS[n] for n in NUMBERS
    }
    assert [int(key.rpartition("/")[2]) for key in samples] == list(NUMBERS)
    assert [s.image for s in samples.values()] == list(FACES.values())
    assert {(s.split, s.source) for s in samples.values()} == {
        (None, "celeba-hq (non-commercial research)")
    }
    assert reasons(skipped) == {
        "train.txt": "a list that is not there",
        "mask/0.png": "an image that is not listed",
        "sketch/0.jpg": "an image that is not listed",
        "README.txt": "not an image (.txt)",
    }
    assert "Corgi splits" in skipped["train.txt"].detail


@pytest.mark.parametrize(
    "lists",
    [
        {"train.txt": "0\n2\n\n10", "test.txt": "29999"},
        {"train.txt": "0.jpg\r\nimages/2.jpg\r\n10.jpg\r\n", "test.txt": "29999.jpg\n"},
        {"train/filenames.txt": "0\n2\n10\n", "test/filenames.txt": "29999\n"},
        {"test.txt": "29999\n"},
        {"train.txt": "10\n2\n0\n"},
        {"train.txt": "10\n2\n", "val.txt": "0\n"},
    ],
)
def test_the_split_of_text_lists(tmp_path: Path, lists: dict[str, str]) -> None:
    samples, skipped = reading("celeba", folder_with(tmp_path, {**CELEBA, **lists}))
    splits = [s.split for s in samples.values()]
    validated = "validation" if "val.txt" in lists else "train"
    assert splits == [validated, "train", "train", "test"]
    assert not skipped


def test_a_pickled_list_is_never_unpickled_and_corgi_splits(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    pickles = {f"{split}/filenames.pickle": pickle.dumps(Trap(touched))
               for split in ("train", "test")}  # fmt: skip
    samples, skipped = reading("celeba", folder_with(tmp_path / "in", {**CELEBA, **pickles}))
    assert {s.split for s in samples.values()} == {None}
    assert reasons(skipped) == {
        "train.txt": "a list that is not there",
        "train/filenames.pickle": "a pickled list, which is not read",
        "test/filenames.pickle": "a pickled list, which is not read",
    }
    assert "into train.txt, one a line" in skipped["train/filenames.pickle"].detail
    assert not touched.exists()
    pickle.loads(pickles["train/filenames.pickle"])  # the trap would have worked
    assert touched.exists()


def test_a_fault_costs_itself_alone_and_is_named(tmp_path: Path) -> None:
    faulty: dict[str, bytes | str] = {
        **CELEBA,
        "text/celeba-caption/2.txt": " \n\n",
        "text/celeba-caption/10.txt": b"a face\n\xe9\n",
        "text/celeba-caption/77.txt": "of no face",
        "images/10.png": encoded(noise("10")),
        "train.txt": "0\n404.jpg\nsome words\n2\n",
        "test.txt": "2\n10\n",
    }
    faulty.pop("text/celeba-caption/29999.txt")
    samples, skipped = reading("celeba", folder_with(tmp_path, faulty))
    assert {key: (s.captions, s.split) for key, s in samples.items()} == {
        "images/0": (CAPTIONS[0], "train"),
        "images/2": (None, "train"),
        "images/10": (["a face", "\ufffd"], "test"),
        "images/29999": (None, None),
    }
    assert reasons(skipped) == {
        "train.txt, line 2": "names no image that is there",
        "train.txt, line 3": "names no image that is there",
        "test.txt, line 1": "is in two lists",
        "images/2.jpg": "an image without captions",
        "images/10.png": "another file of that number",
        "images/29999.jpg": "an image without captions",
        "text/celeba-caption/77.txt": "captions without an image of that number",
    }


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("images", ["no images/ with numbered images", "; perhaps /"]),
        ("down/text", ["no images/ with numbered images", "images/0.jpg, text/celeba-caption/0"]),
        ("gone", ["no folder", "images/0.jpg"]),
    ],
)
def test_a_wrong_folder_is_answered_with_the_right_one(
    tmp_path: Path, wrong: str, words: list[str]
) -> None:
    folder_with(tmp_path, {**CELEBA, "down/text/celeba-caption/0.txt": "x"})
    with pytest.raises(CorgiError) as error:
        list(READERS["celeba"](UPath(tmp_path / wrong), None))
    assert all(word in str(error.value) for word in words), str(error.value)
    with pytest.raises(CorgiError, match="leave --caption-column out"):
        list(READERS["celeba"](UPath(tmp_path), "caption"))
