"""CUB-200-2011 with Reed's captions: ten lines a bird, the split of its list, faults named."""

from __future__ import annotations

from pathlib import Path

import pytest
from upath import UPath

from corgi_core.data.formats import READERS
from corgi_core.errors import CorgiError
from tests.helpers.made import encoded, folder_with, noise
from tests.helpers.readings import reading, reasons

BIRDS = (
    "001.Black_footed_Albatross/Black_Footed_Albatross_0046_18",
    "001.Black_footed_Albatross/Black_Footed_Albatross_0009_34",
    "002.Laysan_Albatross/Laysan_Albatross_0002_1027",
)
CAPTIONS = {bird: [f"{bird[:3]} bird, sentence {n}" for n in range(10)] for bird in BIRDS}
LISTS: dict[str, bytes | str] = {
    "CUB_200_2011/images.txt": "".join(f"{n} {bird}.jpg\n" for n, bird in enumerate(BIRDS, 1)),
    "CUB_200_2011/train_test_split.txt": "1 0\n2 1\n3 0\n",
}
IMAGES: dict[str, bytes | str] = {
    f"CUB_200_2011/images/{bird}.jpg": encoded(noise(bird), "JPEG") for bird in BIRDS
}
TEXTS: dict[str, bytes | str] = {
    f"text_c10/{bird}.txt": "\n".join(CAPTIONS[bird]) + "\n\n" for bird in BIRDS
}
CUB = {**LISTS, **IMAGES, **TEXTS}


@pytest.mark.parametrize("texts", ["text_c10", "text", "text/text_c10", "CUB_200_2011/text"])
def test_ten_captions_a_bird_wherever_the_texts_are(tmp_path: Path, texts: str) -> None:
    files = {name.replace("text_c10", texts, 1): content for name, content in CUB.items()}
    samples, skipped = reading("cub", folder_with(tmp_path, files))
    assert {key: (s.captions, s.split) for key, s in samples.items()} == {
        f"CUB_200_2011/images/{bird}": (CAPTIONS[bird], split)
        for bird, split in zip(BIRDS, ("test", "train", "test"), strict=True)
    }
    assert {s.source for s in samples.values()} == {"cub"}
    assert all(s.image == IMAGES[f"{key}.jpg"] for key, s in samples.items())
    assert not skipped


def test_the_folder_itself_with_the_texts_in_it(tmp_path: Path) -> None:
    files = {name.removeprefix("CUB_200_2011/"): content for name, content in CUB.items()}
    more = {"classes.txt": "1 001.Black_footed_Albatross\n", "text/x/y.txt": "of no bird"}
    samples, skipped = reading("cub", folder_with(tmp_path, {**files, **more}))
    assert [s.captions for s in samples.values()] == list(CAPTIONS.values())
    assert reasons(skipped) == {
        "classes.txt": "not an image (.txt)",
        "text/x/y.txt": "captions without an image of that name",
    }


def test_a_fault_costs_itself_alone_and_is_named_with_its_line(tmp_path: Path) -> None:
    first, second, third = BIRDS
    files: dict[str, bytes | str] = {
        **CUB,
        "CUB_200_2011/images.txt":
            f"1 {first}.jpg\n2\n\n1 {second}.jpg\n4 {second}.jpg\n5 gone/x.jpg\n6 {third}.jpg\n"
            f"7 {third}.jpg\n",
        "CUB_200_2011/train_test_split.txt": "1 0\n4 yes\n6 1\n6 0\n",
        f"text_c10/{first}.txt": "\n\n",
        f"text_c10/{third}.txt": b"a bird\r\ncaf\xe9\r\n",
        "CUB_200_2011/images/002.Laysan_Albatross/more.jpg": encoded(noise("more"), "JPEG"),
    }  # fmt: skip
    files.pop(f"text_c10/{second}.txt")
    samples, skipped = reading("cub", folder_with(tmp_path, files))
    assert {key: (s.captions, s.split) for key, s in samples.items()} == {
        f"CUB_200_2011/images/{first}": (None, "test"),
        f"CUB_200_2011/images/{second}": (None, None),
        f"CUB_200_2011/images/{third}": (["a bird", "caf\ufffd"], "train"),
    }
    assert reasons(skipped) == {
        "CUB_200_2011/train_test_split.txt, line 2": "bad row",
        "CUB_200_2011/train_test_split.txt, line 4": "bad row",
        f"CUB_200_2011/images/{first}.jpg": "an image without captions",
        f"CUB_200_2011/images/{second}.jpg": "an image without captions",
        "CUB_200_2011/images.txt, line 2": "bad row",
        "CUB_200_2011/images.txt, line 4": "listed before, by number or by name",
        "CUB_200_2011/images.txt, line 5": "not in train_test_split.txt",
        "CUB_200_2011/images.txt, line 6": "names no image that is there",
        "CUB_200_2011/images.txt, line 8": "listed before, by number or by name",
        "CUB_200_2011/images/002.Laysan_Albatross/more.jpg": "an image that is not listed",
    }


def test_without_a_list_of_the_split_corgi_splits_and_says_so(tmp_path: Path) -> None:
    files = {name: content for name, content in CUB.items() if "train_test" not in name}
    samples, skipped = reading("cub", folder_with(tmp_path, files))
    assert {s.split for s in samples.values()} == {None}
    assert "Corgi splits" in skipped["CUB_200_2011/train_test_split.txt"].detail


@pytest.mark.parametrize(
    ("files", "wrong", "words"),
    [
        (CUB, "CUB_200_2011/images", ["no images.txt", "; perhaps /"]),
        (CUB, "text_c10", ["no images.txt", "; perhaps /"]),
        (CUB, "CUB_200_2011", ["neither text_c10/ nor text/", "; perhaps /"]),
        ({**LISTS, **IMAGES}, "", ["neither text_c10/ nor text/", "text_c10/ or text/"]),
        (CUB, "gone", ["no folder", "CUB_200_2011/"]),
    ],
)
def test_a_wrong_folder_is_answered_with_the_right_one(
    tmp_path: Path, files: dict[str, bytes | str], wrong: str, words: list[str]
) -> None:
    folder_with(tmp_path, files)
    with pytest.raises(CorgiError) as error:
        list(READERS["cub"](UPath(tmp_path / wrong), None))
    assert all(word in str(error.value) for word in words), str(error.value)
    with pytest.raises(CorgiError, match="leave --caption-column out"):
        list(READERS["cub"](UPath(tmp_path), "caption"))
