"""A diffusers prior samples what its own pipeline samples, and is refused where it does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import KandinskyV22PriorPipeline

from corgi_core.encoders.similarity import scale_per_encoder
from corgi_core.errors import CorgiError
from corgi_core.prior.diffusers_prior import (
    DiffusersPrior,
    diffusers_prior_digest,
    embedding_width,
)
from tests.helpers.tiny_diffusers_prior import WIDTH, saved_prior, tiny_prior_pipeline

CAPTIONS = ["a cat", "a dog", "an engine under water"]
SEEDS = [7, 8, 9]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_prior(tmp_path_factory.mktemp("tiny-kandinsky"))


def test_samples_are_those_of_the_pipeline_with_the_same_seeds(folder: Path) -> None:
    pipeline = KandinskyV22PriorPipeline.from_pretrained(folder)
    expected = [
        pipeline(caption, generator=torch.Generator().manual_seed(seed)).image_embeds
        for caption, seed in zip(CAPTIONS, SEEDS, strict=True)
    ]
    found = DiffusersPrior.load(folder).sample(CAPTIONS, SEEDS)
    torch.testing.assert_close(
        found, scale_per_encoder(torch.cat(expected), (WIDTH,)), atol=1e-5, rtol=1e-5
    )
    assert torch.cdist(found, found).fill_diagonal_(9).min() > 0.01


@pytest.mark.parametrize("width", [1280, 768])  # Kandinsky 2.2's embeddings, and Karlo's
def test_a_prior_of_the_published_widths_samples_what_its_pipeline_samples(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """32 heads of 64, in one layer of their twenty, and two steps."""
    monkeypatch.setattr(f"{DiffusersPrior.__module__}.NUM_STEPS", 2)
    pipeline = tiny_prior_pipeline(width, heads=32, head_width=64)
    parts = pipeline.prior, pipeline.scheduler, pipeline.text_encoder, pipeline.tokenizer
    seeded = torch.Generator().manual_seed(SEEDS[0])
    expected = pipeline(CAPTIONS[0], num_inference_steps=2, generator=seeded).image_embeds
    torch.testing.assert_close(
        DiffusersPrior(*parts).sample(CAPTIONS[:1], SEEDS[:1]),
        scale_per_encoder(expected, (width,)), atol=1e-4, rtol=1e-4,
    )  # fmt: skip


def test_a_folder_of_karlos_layout_has_the_same_prior(folder: Path) -> None:
    before = diffusers_prior_digest(folder)
    expected = DiffusersPrior.load(folder).sample(CAPTIONS, SEEDS)
    (folder / "scheduler").rename(folder / "prior_scheduler")
    try:
        assert torch.equal(DiffusersPrior.load(folder).sample(CAPTIONS, SEEDS), expected)
        assert diffusers_prior_digest(folder) != before
    finally:
        (folder / "prior_scheduler").rename(folder / "scheduler")
    assert diffusers_prior_digest(folder) == before
    assert embedding_width(folder) == WIDTH


def test_what_is_no_such_prior_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CorgiError, match="holds no PriorTransformer"):
        embedding_width(tmp_path)
    config = folder / "scheduler" / "scheduler_config.json"
    before = config.read_text()
    config.write_text(json.dumps({"_class_name": "DDPMScheduler"}))
    with pytest.raises(CorgiError, match="no UnCLIPScheduler"):
        DiffusersPrior.load(folder)
    config.write_text(before)
    weights = folder / "prior" / "diffusion_pytorch_model.safetensors"
    pickled = weights.with_suffix(".bin")
    weights.rename(pickled)
    with pytest.raises(CorgiError, match="cannot be loaded"):
        DiffusersPrior.load(folder)
    pickled.rename(weights)
