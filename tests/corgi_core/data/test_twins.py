"""Near twins are in one split, whatever their groups, and whenever they come."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from corgi_core.data.dataset import Dataset
from corgi_core.data.ingest import ingest
from corgi_core.data.quality import gate, quarantine_summary
from corgi_core.data.twins import HashedRows, Moves, moves_of
from tests.helpers.made import SETTINGS, encoded, noise
from tests.helpers.whole import manifest_of, quarantine_of

A, B, FAR = 0b0111, 0b1000, 2**60 - 1  # A and B differ in four bits
Shard = list[tuple[str, str, int | None]]  # group, split, hash


def moves(shards: list[Shard], batches: list[int], **options: object) -> dict[str, str]:
    return {name: move.split for name, move in found(shards, batches, **options).groups.items()}


def found(shards: list[Shard], batches: list[int], **options: object) -> Moves:
    def read(name: str) -> HashedRows:
        groups, splits, hashes = zip(*shards[int(name)], strict=True)
        return HashedRows(
            [f"{group}{number}" for number, group in enumerate(groups)], groups, splits,
            np.array([hash or 0 for hash in hashes], np.uint64),
            np.array([hash is not None for hash in hashes]),
        )  # fmt: skip

    return moves_of([f"{number}" for number in range(len(shards))], batches, read, 4, **options)


def test_connected_groups_get_the_split_of_the_first_and_others_stay() -> None:
    first: Shard = [("a", "train", A), ("c", "validation", FAR)]
    second: Shard = [("b", "test", B), ("b", "test", FAR << 4), ("d", "test", None)]
    assert moves([first, second], [0, 0]) == {"b": "train"}
    assert moves([second, first], [0, 0]) == {"a": "test"}
    assert found([first, second], [0, 0]).shards == {"1"}
    assert found([first, second], [0, 0]).groups["b"].why == "near a0 (train): test → train"


def test_a_group_connects_those_that_its_images_are_near() -> None:
    """a and c are far from each other; an image of b is near a, another one near c."""
    shard: Shard = [("a", "test", A), ("b", "train", B), ("b", "train", FAR), ("c", "train", FAR)]
    assert moves([shard], [0]) == {"b": "test", "c": "test"}


def test_what_comes_later_takes_the_split_that_is_there() -> None:
    old: Shard = [("x", "train", FAR), ("a", "test", A)]
    assert moves([old, [("b", "train", B)]], [0, 1]) == {"b": "test"}
    assert moves([old, [("b", "train", B)], [("e", "validation", B)]], [0, 1, 2]) == {
        "b": "test", "e": "test"
    }  # fmt: skip
    late: Shard = [("a", "test", B)]  # of a group that is there
    assert moves([old, [("b", "train", B)], late], [0, 1, 2]) == {"b": "test"}


def test_what_connects_old_groups_of_two_splits_is_for_training_and_says_so() -> None:
    old: Shard = [("a", "test", 0b1), ("b", "validation", 0b111111)]
    bridge: Shard = [("c", "validation", 0b111)]
    assert moves([old], [0]) == {}
    moved = found([old, bridge], [0, 1]).groups
    assert {name: move.split for name, move in moved.items()} == {"c": "train"}
    assert moved["c"].why == "near a0 (test) and b1 (validation): validation → train"
    assert moves([old, bridge], [0, 0]) == {"b": "test", "c": "test"}


def test_splits_that_the_data_came_with_are_neither_left_nor_entered() -> None:
    shard: Shard = [("a", "test", A), ("b", "train", B), ("c", "validation", B)]
    assert moves([shard], [0], movable=("train", "validation")) == {"c": "train"}


def scene(name: str) -> Image.Image:
    return noise(name).resize((64, 64), Image.Resampling.BICUBIC)


def write_scenes(folder: Path, files: dict[str, Image.Image]) -> str:
    folder.mkdir(exist_ok=True)
    for name, picture in files.items():
        (folder / f"{name}.png").write_bytes(encoded(picture))
    return str(folder)


def brighter(name: str) -> Image.Image:
    return ImageEnhance.Brightness(scene(name)).enhance(1.05).resize((48, 48))


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    """Twelve scenes; then twins of all of them, in another ingest; the gated data after each."""
    folder = tmp_path_factory.mktemp("twins")
    settings = replace(SETTINGS, test_fraction=0.3, validation_fraction=0.2)
    names = [f"{n:02}" for n in range(12)]
    result = {}
    for step, make in (("first", scene), ("second", brighter)):
        source = write_scenes(folder / step, {f"{step}-{n}": make(n) for n in names})
        raw = ingest("imagefolder", source, folder / "raw", settings, 0)
        gate(raw, folder / "images", settings)
        result[step] = gate(raw, folder / f"{step} gated anew", settings)
    result["raw"], result["in steps"] = raw, Dataset.load(folder / "images")
    return result


def splits_of(dataset: Dataset, prefix: str) -> dict[str, str]:
    rows = manifest_of(dataset)
    rows = rows[rows["key"].str.startswith(prefix)]
    return dict(zip(rows["key"].str[len(prefix) :], rows["split"], strict=True))


def test_twins_of_another_ingest_take_the_splits_of_those_that_are_there(gated) -> None:
    dataset = gated["in steps"]
    assert splits_of(dataset, "first-") == splits_of(dataset, "second-")
    assert splits_of(gated["raw"], "first-") == splits_of(dataset, "first-")
    assert splits_of(gated["raw"], "first-") != splits_of(gated["raw"], "second-")


def test_it_is_said_which_images_are_in_another_split_and_why(gated) -> None:
    dataset, raw = gated["in steps"], gated["raw"]
    moved = quarantine_of(dataset)
    wanted = {
        f"second-{name}": f"near first-{name} ({split}): {was} → {split}"
        for name, split in splits_of(dataset, "second-").items()
        if split != (was := splits_of(raw, "second-")[name])
    }
    assert dict(zip(moved["key"], moved["detail"], strict=True)) == wanted
    assert set(moved["action"]) == {"moved"}
    assert quarantine_summary(dataset)[0]["moved"] == len(wanted)


def test_old_shards_are_not_written_again_and_steps_make_no_difference(gated) -> None:
    first, steps, anew = (gated[name].folder for name in ("first", "in steps", "second"))
    files = {
        folder: {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*.parquet")}
        for folder in (first, steps, anew)
    }
    assert files[first].items() <= files[steps].items()
    assert files[steps] == files[anew]
    assert gated["in steps"].digest == gated["second"].digest


def test_other_bits_move_images_back_without_decoding_anything(gated, tmp_path) -> None:
    raw = gated["raw"]
    settings = replace(SETTINGS, twin_bits=None)
    alone = gate(raw, tmp_path / "images", settings)
    assert splits_of(alone, "") == splits_of(raw, "")
    together = gate(raw, tmp_path / "images", SETTINGS)
    assert together.recomputed == 0
    assert splits_of(together, "") == splits_of(gated["second"], "")
    again = gate(raw, tmp_path / "images", settings)
    assert (again.recomputed, again.digest) == (0, alone.digest)
    assert quarantine_of(again).empty
