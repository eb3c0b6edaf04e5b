"""Rows of different lengths: what is stored, taken and read is the rows, and no padding."""

import numpy as np
import pytest

from corgi_core.data.arrays import ArrayStore, compute_missing
from corgi_core.data.dataset import write_dataset
from corgi_core.data.ragged import RaggedArray
from corgi_core.errors import CorgiError
from tests.helpers.made import samples

LENGTHS = [3, 0, 1, 4, 0, 2]


def made(lengths=LENGTHS, width=2):
    """The rows themselves, one array each, and all of them as one ragged array."""
    random = np.random.default_rng(len(lengths))
    rows = [random.standard_normal((length, width)).astype(np.float16) for length in lengths]
    return rows, RaggedArray.of_lengths(np.concatenate(rows), np.array(lengths))


def same(found, rows):
    assert len(found) == len(rows)
    assert found.lengths.tolist() == [len(row) for row in rows]
    for number, row in enumerate(rows):
        begin, end = found.offsets[number : number + 2]
        np.testing.assert_array_equal(found.values[begin:end], row)


@pytest.mark.parametrize("chosen", [[5, 0, 3, 3], [1, 4], [2], [], list(range(6))])
def test_rows_are_taken_in_any_order(chosen):
    rows, ragged = made()
    same(ragged.take(np.array(chosen, dtype=np.int64)), [rows[row] for row in chosen])


def test_parts_follow_each_other():
    (first, one), (second, two) = made(), made([2, 5])
    same(RaggedArray.concatenated([one, two, one.take(np.arange(0))]), first + second)


def test_lengths_that_do_not_fit_the_values_are_a_defect():
    with pytest.raises(ValueError, match="rows of 3 values in all, but there are 4"):
        RaggedArray.of_lengths(np.zeros((4, 2)), np.array([1, 2]))


def test_a_store_holds_the_rows_without_padding(tmp_path):
    """One row of a thousand elements among short ones costs its own elements and no more."""
    dataset, lengths = write_dataset(tmp_path / "set", samples(9), shard_size=4), [1, 2, 0, 1000]
    rows, _ = made(lengths, width=8)

    def compute(shard):
        keys = dataset.rows(shard)["key"].to_numpy(str)
        chosen = [int(key) % 4 for key in keys]
        values = np.concatenate([rows[row] for row in chosen])
        ragged = RaggedArray.of_lengths(values, np.array([lengths[row] for row in chosen]))
        return {"keys": keys, "words": ragged, "number": keys.astype(np.int64)}

    folder = compute_missing(tmp_path / "store", dataset, {}, compute, "words").folder
    store = ArrayStore.load(folder)
    expected = [rows[number % 4] for number in range(9)]
    same(store.read_ragged("words"), expected)
    same(store.read_ragged_shard("00001", "words"), expected[4:8])
    assert store.read("number").tolist() == list(range(9))
    assert len(store) == 9
    elements = 2 * sum(lengths) + lengths[0]
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    assert stored < elements * 8 * 2 + 3 * 1000
    with pytest.raises(CorgiError, match=r"no array 'number' of that kind") as refused:
        store.read_ragged("number")
    assert refused.value.remedy == "choose one of number, words"
    with pytest.raises(CorgiError, match="no array 'words' of that kind"):
        store.read("words")


def test_a_ragged_array_of_too_few_rows_is_a_defect(tmp_path):
    dataset = write_dataset(tmp_path / "set", samples(2), shard_size=2)
    _, ragged = made([1, 2, 3])
    with pytest.raises(ValueError, match="number of rows"):
        compute_missing(
            tmp_path / "s", dataset, {}, lambda _: {"keys": np.array(["a"]), "x": ragged}, "x"
        )
