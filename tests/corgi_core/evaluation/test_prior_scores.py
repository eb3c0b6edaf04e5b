"""How predicted embeddings are scored where several images are the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from corgi_core.data.arrays import ArrayStore, compute_missing
from corgi_core.data.dataset import Dataset, write_dataset
from corgi_core.data.ragged import RaggedArray
from corgi_core.data.shards import Sample
from corgi_core.evaluation.held_out import Chunks, HeldOut
from corgi_core.evaluation.predictors import ONCE, TextEmbeddings
from corgi_core.evaluation.prior_scores import PredictionScores, cosine_by_timestep, scores_of
from corgi_core.metrics.bootstrap import bootstrap_intervals, with_intervals
from tests.helpers.evaluations import (
    embedding_scores,
    in_this_process,
    numbers,
    without_intervals,
)

SPEC = {"encoder": "made", "encoder_dims": [4, 8], "names": ["a", "b"]}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    samples = [Sample(f"{n:02}", b"", ["caption"], "test", "made", f"{n}") for n in range(40)]
    return write_dataset(tmp_path_factory.mktemp("data") / "images", samples, shard_size=9)


def stores(images: Dataset, folder: Path, true: np.ndarray, text: np.ndarray) -> list[ArrayStore]:
    def rows(shard: str) -> tuple[np.ndarray, np.ndarray]:
        keys = images.rows(shard, "key")["key"].to_numpy(dtype=str)
        return keys, keys.astype(int)

    def image(shard: str) -> dict[str, np.ndarray]:
        keys, numbers = rows(shard)
        return {"keys": keys, "image": true[numbers]}

    def texts(shard: str) -> dict[str, np.ndarray | RaggedArray]:
        keys, numbers = rows(shard)
        tokens = RaggedArray.of_lengths(np.zeros((len(keys), 1)), np.ones(len(keys), np.int64))
        return {"keys": keys, "text": text[numbers], "tokens": tokens}

    return [
        compute_missing(folder / "image", images, SPEC, image, "images"),
        compute_missing(folder / "text", images, SPEC, texts, "texts"),
    ]


@pytest.mark.parametrize("predicted", ["perfect", "shifted", "constant", "near"])
def test_images_that_are_the_same_do_not_compete_with_each_other(
    images: Dataset, tmp_path: Path, predicted: str
) -> None:
    random = np.random.default_rng(0)
    true = np.repeat(random.normal(size=(8, 12)), 5, axis=0).astype(np.float16)
    text = {
        "perfect": true,
        "shifted": np.roll(true, 5, axis=0),
        "constant": np.broadcast_to(true[:1], true.shape),
        "near": (true + random.normal(size=true.shape)).astype(np.float16),
    }[predicted]
    chunks = Chunks(HeldOut.of(images, 100), (TextEmbeddings(),), 7)
    job = PredictionScores(chunks, *stores(images, tmp_path, true, text))
    found = scores_of(in_this_process(job, tmp_path / "scores"), chunks.shards, ONCE, ["a", "b"])
    right = {"perfect": 1.0, "shifted": 0.0, "constant": 1 / 8}  # the same answer to all
    if predicted in right:
        assert found["recall_at_1"] == right[predicted]
    whole = (torch.from_numpy(np.array(each)).float() for each in (text, true))
    expected = embedding_scores(*whole, (4, 8), ["a", "b"])
    assert without_intervals(numbers(found)) == {
        name: pytest.approx(value) for name, value in expected.items()
    }
    for score in ("cosine", "recall_at_1", "recall_at_5"):
        assert found[f"{score}_ci_low"] <= found[score] <= found[f"{score}_ci_high"]


def test_all_timesteps_are_resampled_at_once(
    images: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the intervals that each one has by itself."""
    along = np.random.default_rng(0).uniform(size=(40, 3, 2)).astype(np.float32)

    def compute(shard: str) -> dict[str, np.ndarray]:
        keys = images.rows(shard, "key")["key"].to_numpy(dtype=str)
        steps = np.tile([999, 500, 0], (len(keys), 1))
        return {"keys": keys, "3/along": along[keys.astype(int)], "3/timesteps": steps}

    store, calls = compute_missing(tmp_path, images, {}, compute, "made"), list[int]()

    def counted(values: np.ndarray, seed: int) -> np.ndarray:
        calls.append(values.shape[1])
        return bootstrap_intervals(values, seed)

    means = along.mean(axis=2, dtype=np.float64).T
    expected = [with_intervals({"cosine": each}) for each in means]
    monkeypatch.setattr("corgi_core.metrics.bootstrap.bootstrap_intervals", counted)
    found = cosine_by_timestep(store, images.shards, "3")
    assert calls == [3]
    assert list(found) == ["999", "500", "0"]
    for one, alone in zip(found.values(), expected, strict=True):
        assert one == pytest.approx(alone, abs=1e-8)
