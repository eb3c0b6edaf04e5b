"""Others' priors are scored on the same captions, if they predict the same CLIP's embeddings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import KandinskyV22PriorPipeline
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from corgi_core.data.arrays import ArrayStore, compute_missing
from corgi_core.data.dataset import Dataset, write_dataset
from corgi_core.data.ragged import RaggedArray
from corgi_core.data.shards import Sample
from corgi_core.errors import CorgiError
from corgi_core.evaluation.derangement import derangement
from corgi_core.evaluation.held_out import Chunks, HeldOut
from corgi_core.evaluation.other_priors import other_prior_digest, other_priors
from corgi_core.evaluation.predictors import ONCE
from corgi_core.evaluation.prior_scores import PredictionScores, scores_of
from corgi_core.evaluation.report import SHUFFLED
from corgi_core.prior.authors_prior import AuthorsPrior
from tests.helpers.authors_checkpoint import GAUSSIANS, TEXT, D, checkpoint
from tests.helpers.evaluations import in_this_process
from tests.helpers.tiny_diffusers_prior import WIDTH, saved_prior

COUNT, SEED = 9, 3
SPEC = {"encoder": "made", "encoder_dims": [WIDTH], "names": ["a"]}
CAPTIONS = [f"{letter} {letter * 2}" for letter in "abcdefghi"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_prior(tmp_path_factory.mktemp("data") / "tiny-kandinsky")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    samples = [
        Sample(f"{n}", b"", [CAPTIONS[n]], "test", "made", f"{n}") for n in range(COUNT)
    ]  # fmt: skip
    return write_dataset(tmp_path_factory.mktemp("data") / "images", samples, shard_size=4)


def stored(
    images: Dataset, folder: Path, name: str, values: np.ndarray, spec: dict[str, Any] = SPEC
) -> ArrayStore:
    def arrays(shard: str) -> dict[str, np.ndarray | RaggedArray]:
        keys = images.rows(shard, "key")["key"].to_numpy(dtype=str)
        tokens = RaggedArray.of_lengths(np.zeros((len(keys), 1)), np.ones(len(keys), np.int64))
        return {"keys": keys, name: values[keys.astype(int)], "tokens": tokens}

    return compute_missing(folder / name, images, spec, arrays, name)


def test_its_scores_are_those_of_its_own_pipelines_samples(
    images: Dataset, folder: Path, tmp_path: Path
) -> None:
    pipeline = KandinskyV22PriorPipeline.from_pretrained(folder)
    tokens = pipeline.tokenizer(CAPTIONS, padding="max_length", return_tensors="pt").input_ids
    text = pipeline.text_encoder(tokens).text_embeds.detach().numpy() * 5
    true = np.random.default_rng(0).normal(size=(COUNT, WIDTH)).astype(np.float32)
    image_store = stored(images, tmp_path, "image", true)
    held_out = HeldOut.of(images, COUNT)
    (case,) = other_priors([str(folder)], [WIDTH], SEED).values()

    def scored(text: np.ndarray, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        chunks = Chunks(held_out, (case,), 4)
        job = PredictionScores(chunks, image_store, stored(images, tmp_path / name, "text", text))
        store = in_this_process(job, tmp_path / name / "scores")
        whole, control = (scores_of(store, chunks.shards, n, ["a"]) for n in (ONCE, SHUFFLED))
        return whole, control

    expected, others = [], derangement(COUNT).tolist()
    keys = [int(held_out.keys[other]) for other in others]
    beside_others = []
    for row, (key, caption) in enumerate(zip(held_out.keys, held_out.captions, strict=True)):
        generator = torch.Generator().manual_seed(SEED * 1_000_003 + row)
        sample = pipeline(caption, generator=generator).image_embeds
        expected.append(F.cosine_similarity(sample, torch.from_numpy(true[[int(key)]])).item())
        other = torch.from_numpy(true[[keys[row]]])
        beside_others.append(F.cosine_similarity(sample, other).item())
    found, control = scored(text, "own")
    assert found["cosine"] == pytest.approx(np.mean(expected), abs=1e-5)
    assert control["cosine"] == pytest.approx(np.mean(beside_others), abs=1e-5)
    assert found["seconds"] > 0
    with pytest.raises(CorgiError, match="belongs to another CLIP"):
        scored(np.roll(text, 1, axis=1), "another")


def test_embeddings_of_other_encoders_and_names_that_are_taken_are_refused(folder: Path) -> None:
    for dims in ([WIDTH, WIDTH], [WIDTH // 2, WIDTH // 2], [2 * WIDTH]):
        with pytest.raises(CorgiError, match="samples embeddings of one CLIP encoder, 16 wide"):
            other_priors([str(folder)], dims, SEED)
    with pytest.raises(CorgiError, match="two rows would be called tiny-kandinsky"):
        other_priors([str(folder)] * 2, [WIDTH], SEED)


DIMS, STEPS_OF_TOKENS = (8, 4), 6
OF_AUTHORS = {"encoder": "made", "encoder_dims": list(DIMS), "names": ["a", "b"]}


@pytest.fixture(scope="module")
def authors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted prior of the authors, with states of all captions, in another order."""
    folder, random = tmp_path_factory.mktemp("data") / "authors", torch.Generator().manual_seed(1)
    folder.mkdir()
    save_file(checkpoint(reads_gaussian=True), folder / "model.safetensors")
    gaussians = {name: torch.rand(GAUSSIANS, D, generator=random) for name in ("mean", "std")}
    save_file(gaussians, folder / "gaussians.safetensors")
    states = {
        "tokens": torch.randn(COUNT, STEPS_OF_TOKENS, TEXT, generator=random).half(),
        "text": 3 * torch.randn(COUNT, D, generator=random),
    }
    about = {"captions": json.dumps(CAPTIONS[::-1])}
    save_file(states, folder / "captions.safetensors", about)
    return folder


def scores_of_authors(
    authors: Path, images: Dataset, folder: Path, true: np.ndarray, text: np.ndarray
) -> dict[str, Any]:
    (case,) = other_priors([str(authors)], DIMS, SEED).values()
    held_out = HeldOut.of(images, COUNT)
    stores = (
        stored(images, folder, name, values, OF_AUTHORS)
        for name, values in (("image", true), ("text", text))
    )
    chunks = Chunks(held_out, (case,), 4)
    store = in_this_process(PredictionScores(chunks, *stores), folder / "scores")
    return scores_of(store, chunks.shards, ONCE, OF_AUTHORS["names"])


def test_a_prior_of_the_authors_stands_beside_ours_by_states_of_the_captions(
    images: Dataset, authors: Path, tmp_path: Path
) -> None:
    """Each caption has its own states and noise, whatever their order and the chunks."""
    states = load_file(authors / "captions.safetensors")
    tokens, text = states["tokens"].flip(0), states["text"].flip(0)
    true = np.random.default_rng(0).normal(size=(COUNT, D)).astype(np.float32)
    samples = AuthorsPrior.load(authors).sample(tokens, text, seed=SEED).split(DIMS, dim=1)
    cosines = [
        F.cosine_similarity(ours, theirs).mean().item()
        for ours, theirs in zip(samples, torch.from_numpy(true).split(DIMS, dim=1), strict=True)
    ]
    found = scores_of_authors(authors, images, tmp_path, true, text.numpy() / 7)
    by_encoder = [found["cosine_by_encoder"][name] for name in OF_AUTHORS["names"]]
    assert by_encoder == pytest.approx(cosines, abs=1e-5)
    assert found["seconds"] > 0


def test_states_of_other_captions_or_encoders_are_refused(
    images: Dataset, authors: Path, tmp_path: Path
) -> None:
    true, others = np.ones((COUNT, D), np.float32), load_file(authors / "captions.safetensors")
    text = others["text"].flip(0).numpy()
    with pytest.raises(CorgiError, match="of other encoders than the evaluated"):
        scores_of_authors(authors, images, tmp_path / "rolled", true, np.roll(text, 1, axis=1))
    with pytest.raises(CorgiError, match="12 wide; those evaluated are of encoders 16 wide"):
        other_priors([str(authors)], [WIDTH], SEED)
    again = Path(shutil.copytree(authors, tmp_path / "again"))
    digest = other_prior_digest(again)
    about = {"captions": json.dumps(["another", *CAPTIONS[-2::-1]])}
    save_file(others, again / "captions.safetensors", about)
    assert digest == other_prior_digest(authors) != other_prior_digest(again)
    with pytest.raises(CorgiError, match="no state of 1 evaluated captions, such as 'i ii'"):
        scores_of_authors(again, images, tmp_path / "missing", true, text)
    for broken in ({}, {"captions": "[1"}, {"captions": "[]"}):
        save_file(others, again / "captions.safetensors", broken)
        with pytest.raises(CorgiError, match="no tokens and text of as many captions"):
            other_priors([str(again)], DIMS, SEED)
    (again / "captions.safetensors").unlink()
    with pytest.raises(CorgiError, match="no tokens and text") as refused:
        other_priors([str(again)], DIMS, SEED)
    assert "docs/evaluation.md" in refused.value.remedy
