"""Rows of several shards: chosen by key, numbered through, gathered from the files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from corgi_core.data.arrays import ArrayStore, compute_missing
from corgi_core.data.keys import ListedKeys
from corgi_core.data.ragged import RaggedArray
from corgi_core.errors import CorgiError
from corgi_core.training.rows import ChosenRows


class Shards:
    """Four shards, of which the third has no row."""

    rows = {"00000": 5, "00001": 3, "00002": 0, "00003": 9}  # noqa: RUF012

    @property
    def shards(self) -> list[str]:
        return list(self.rows)

    def shard_digest(self, shard: str) -> str:
        return shard

    def images_in(self, shard: str) -> int:
        return self.rows[shard]

    def keys(self, shard: str) -> list[str]:
        return [f"{shard}/{number}" for number in range(self.rows[shard])]


@pytest.fixture
def stores(tmp_path: Path) -> tuple[ArrayStore, ArrayStore]:
    """Images in the opposite order of their keys, and two captions of each."""
    random, shards = np.random.default_rng(0), Shards()

    def images(shard: str) -> dict[str, np.ndarray]:
        keys = shards.keys(shard)[::-1]
        return {
            "keys": np.array(keys, dtype=str),
            "image": random.standard_normal((len(keys), 3)).astype(np.float16),
        }

    def texts(shard: str) -> dict[str, np.ndarray | RaggedArray]:
        keys = np.repeat(np.array(shards.keys(shard), dtype=str), 2)
        lengths = random.integers(0, 4, len(keys))
        values = random.standard_normal((lengths.sum(), 2)).astype(np.float16)
        return {
            "keys": keys,
            "text": random.standard_normal((len(keys), 3)).astype(np.float16),
            "tokens": RaggedArray.of_lengths(values, lengths),
        }

    return (
        compute_missing(tmp_path / "images", shards, {"of": "images"}, images, "images"),
        compute_missing(tmp_path / "texts", shards, {"of": "texts"}, texts, "texts"),
    )


CHOSEN = ListedKeys(("00000/1", "00000/4", "00001/0", "00003/2", "00003/3", "00003/8", "nowhere"))


def test_rows_are_gathered_in_the_order_asked_for(stores: tuple[ArrayStore, ArrayStore]) -> None:
    """Against arrays that are read whole."""
    images, texts = stores
    rows = ChosenRows(texts, CHOSEN)
    assert rows.shard_rows == [4, 2, 0, 6]
    wanted = torch.tensor([11, 0, 5, 5, 4, 3])
    text, image = rows.gather(wanted, (texts, "text"), (images, "image"))
    tokens = rows.gather_ragged(wanted, texts, "tokens")
    every = np.flatnonzero(np.isin(texts.keys, CHOSEN.keys))[wanted.numpy()]
    np.testing.assert_array_equal(text.numpy(), texts.read("text")[every])
    own = [int(np.flatnonzero(images.keys == key)[0]) for key in texts.keys[every]]
    np.testing.assert_array_equal(image.numpy(), images.read("image")[own])
    expected = texts.read_ragged("tokens").take(every)
    np.testing.assert_array_equal(tokens.offsets, expected.offsets)
    np.testing.assert_array_equal(tokens.values, expected.values)


def test_the_first_of_rows_with_one_key_and_rows_that_are_repeated(
    stores: tuple[ArrayStore, ArrayStore],
) -> None:
    images, texts = stores
    first = ChosenRows(texts, CHOSEN, first_only=True)
    assert first.shard_rows == [2, 1, 0, 3]
    (text,) = first.gather(torch.arange(6), (texts, "text"))
    _, rows = np.unique(texts.keys, return_index=True)
    every = np.sort(rows[np.isin(texts.keys[rows], CHOSEN.keys)])
    np.testing.assert_array_equal(text.numpy(), texts.read("text")[every])
    counts = {0: [2, 0], 1: [1], 2: [], 3: [1, 0, 3]}
    often = ChosenRows(images, CHOSEN, repeats=lambda shard: np.array(counts[shard], np.uint8))
    assert often.shard_rows == [2, 1, 0, 4]
    (image,) = often.gather(torch.arange(7), (images, "image"))
    chosen = images.read("image")[np.isin(images.keys, CHOSEN.keys)]
    np.testing.assert_array_equal(image.numpy(), chosen[[0, 0, 2, 3, 5, 5, 5]])


def test_counts_are_made_once_and_read_by_others(
    stores: tuple[ArrayStore, ArrayStore], tmp_path: Path
) -> None:
    _, texts = stores
    ChosenRows(texts, CHOSEN).prepare(tmp_path / "run", "rows")
    for shard in texts.folder.glob("*.safetensors"):
        shard.unlink()
    again = ChosenRows(texts, CHOSEN)
    again.prepare(tmp_path / "run", "rows")
    assert again.shard_rows == [4, 2, 0, 6]
    with pytest.raises(CorgiError):
        ChosenRows(texts, ListedKeys(("00000/1",))).prepare(tmp_path / "run", "rows")


def test_no_rows_are_gathered_as_none(stores: tuple[ArrayStore, ArrayStore]) -> None:
    images, texts = stores
    none = ChosenRows(texts, ListedKeys(()))
    assert len(none) == len(none.spaced(5)) == 0
    (image,) = none.gather(torch.arange(0), (images, "image"))
    assert image.shape == (0, 3)
    assert len(none.gather_ragged(torch.arange(0), texts, "tokens")) == 0


def test_a_key_that_another_store_lacks_is_named(
    stores: tuple[ArrayStore, ArrayStore], tmp_path: Path
) -> None:
    _, texts = stores
    fewer = compute_missing(
        tmp_path / "fewer", Shards(), {"of": "fewer"},
        lambda shard: {"keys": np.array([f"{shard}/1"]), "image": np.zeros((1, 3))}, "fewer",
    )  # fmt: skip
    with pytest.raises(CorgiError, match="has no row for '00000/4'"):
        ChosenRows(texts, CHOSEN).gather(torch.tensor([0, 3]), (fewer, "image"))


def damage(store: ArrayStore, at: int) -> None:
    """Flip a bit of the last shard: of its keys, which are at the end, or of the arrays."""
    path = store.folder / "00003.safetensors"
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_a_shard_whose_keys_are_damaged_is_named(stores: tuple[ArrayStore, ArrayStore]) -> None:
    _, texts = stores
    damage(texts, -1)
    with pytest.raises(CorgiError, match=r"00003\.safetensors is damaged"):
        len(ChosenRows(texts, CHOSEN))


def test_a_shard_that_is_damaged_is_refused_when_its_rows_are_read(
    stores: tuple[ArrayStore, ArrayStore],
) -> None:
    _, texts = stores
    content = (texts.folder / "00003.safetensors").read_bytes()
    damage(texts, 8 + int.from_bytes(content[:8], "little"))
    rows = ChosenRows(texts, CHOSEN)
    rows.gather(torch.tensor([0, 5]), (texts, "text"))
    with pytest.raises(CorgiError, match=r"00003\.safetensors is damaged"):
        rows.gather(torch.tensor([6]), (texts, "text"))
