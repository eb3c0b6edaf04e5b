"""Running out of memory is one sentence, wherever it happens, and nothing is lost by it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from upath import UPath

from corgi_core.config import PriorSettings, preset_named
from corgi_core.encoders.clip import ClipEnsemble
from corgi_core.encoders.embed import ImageEmbedding
from corgi_core.encoders.fitting import check_model_fits
from corgi_core.encoders.tokens import TokenEncoder
from corgi_core.errors import CorgiError
from corgi_core.out_of_memory import out_of_memory_explained
from corgi_core.training.loop import train
from corgi_core.training.randomness import StepRandom
from tests.helpers.small import write_images
from tests.helpers.tiny import SETTINGS, TinyTask, same
from tests.helpers.tiny_pipeline import tiny_pipeline
from tests.helpers.tiny_vit import tiny_vit

TOO_MUCH = 10**15  # bytes or numbers
OF_A_GPU = (  # torch's own words
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.11 GiB of "
    "which 1.20 GiB is free."
)


def exhausts_the_gpu(*_: object) -> None:
    raise torch.OutOfMemoryError(OF_A_GPU)


def exhausts_the_machine(*_: object) -> None:
    torch.empty(TOO_MUCH)


def exhausts_numpy(*_: object) -> None:
    np.empty(TOO_MUCH)


@dataclass(frozen=True)
class Greedy(TinyTask):
    """Runs out of memory in the model's forward pass of one step."""

    greedy_at: int = field(default=-1, compare=False)
    exhaust: Callable[..., None] = field(default=exhausts_the_gpu, compare=False)

    def loss(self, model: nn.Module, batch: Any, random: StepRandom) -> dict[str, Tensor]:
        if random.step == self.greedy_at:
            model.register_forward_pre_hook(self.exhaust)
        return super().loss(model, batch, random)


Greedy.__qualname__ = TinyTask.__qualname__  # the same training


@dataclass(frozen=True)
class Comparing(Greedy):
    """A loss that compares the samples of a batch, of a model that can save activations."""

    compares_samples = True
    settings: PriorSettings = preset_named("emoji").prior


@pytest.mark.parametrize(
    ("exhaust", "says"),
    [
        (exhausts_the_gpu, "the GPU ran out of memory while resting (2.50 GiB more were needed)"),
        (
            exhausts_the_machine,
            "this machine ran out of memory while resting (4000000.00 GB more were needed)",
        ),
        (exhausts_numpy, "this machine ran out of memory while resting"),
    ],
)
def test_failures_of_gpu_machine_and_numpy_differ(exhaust: Callable[[], None], says: str) -> None:
    with pytest.raises(CorgiError) as info, out_of_memory_explained("resting", "rest less"):
        exhaust()
    assert info.value.problem == says
    assert info.value.remedy == "rest less"


def test_other_failures_stay_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), out_of_memory_explained("a", "b"):
        torch.zeros(2, 3) @ torch.zeros(2, 3)
    with pytest.raises(CorgiError, match="inner"), out_of_memory_explained("a", "b"):
        raise CorgiError("inner", "fix")


def test_a_training_names_its_samples_and_settings_and_goes_on_later(tmp_path: Path) -> None:
    settings = replace(SETTINGS, steps=20)
    with pytest.raises(CorgiError) as info:
        train(Greedy(greedy_at=15), settings, tmp_path / "run", name="the-prior")
    assert "training the-prior with 8 samples of a worker at once" in info.value.problem
    assert "accumulation from 1 to 2" in info.value.remedy
    assert "batch_size, which is 8" in info.value.remedy
    steps = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(steps) == 1  # up to the checkpoint after 10 steps
    resumed = train(TinyTask(), settings, tmp_path / "run")
    assert same(resumed.model, train(TinyTask(), settings, tmp_path / "straight").model)


def test_accumulation_is_no_remedy_for_a_loss_that_compares_samples(tmp_path: Path) -> None:
    with pytest.raises(CorgiError) as info:
        train(Comparing(greedy_at=0, exhaust=exhausts_the_machine), SETTINGS, tmp_path)
    assert info.value.problem.startswith("this machine ran out of memory while training")
    assert "accumulation" not in info.value.remedy
    assert "checkpoint_activations to true" in info.value.remedy


def test_sampling_and_decoding_say_what_they_sampled() -> None:
    pipeline = tiny_pipeline()
    z = torch.randn(3, pipeline.decoder.width)
    pipeline.decoder.network.register_forward_pre_hook(exhausts_the_gpu)
    with pytest.raises(CorgiError, match="decoding 3 images of 16 pixels by a pca decoder") as info:
        pipeline.decoder.decode(z)
    assert "fewer images" in info.value.remedy
    pipeline.clip.encoders[0].model.transformer.register_forward_pre_hook(exhausts_the_gpu)
    with pytest.raises(CorgiError, match="encoding 2 captions"):
        pipeline.text_to_image(["a dog", "a cat"])
    pipeline = tiny_pipeline()
    pipeline.prior.network.layers[0].register_forward_pre_hook(exhausts_the_gpu)
    with pytest.raises(CorgiError, match="sampling embeddings of 1 captions"):
        pipeline.text_to_image("a dog")


def test_embedding_names_the_shard_and_what_ran_out(tmp_path: Path) -> None:
    images = write_images(UPath(tmp_path / "images"), list("abcdef"), ["train"] * 6)
    ClipEnsemble([tiny_vit("vit", 8, layers=1, context_length=16)]).save(tmp_path / "clip")
    job = ImageEmbedding(images, None, tmp_path / "clip")
    job._ensemble.encoders[0].model.visual.conv1.register_forward_pre_hook(exhausts_the_machine)
    with pytest.raises(CorgiError, match=f"image embeddings of shard {images.shards[0]}") as info:
        job.run(tmp_path / "embeddings", "cpu", threads=1)
    assert "ray.cpus_per_worker" in info.value.remedy
    assert not list((tmp_path / "embeddings").glob("*.safetensors"))
    ImageEmbedding(images, None, tmp_path / "clip").run(tmp_path / "embeddings", "cpu", threads=1)


def test_an_encoder_larger_than_the_memory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """The weights' file has that size, and not one byte of it is on the disk."""
    ensemble = ClipEnsemble([tiny_vit("vit", 8, layers=1, context_length=16)])
    ensemble.save(tmp_path / "clip")
    weights = tmp_path / "clip" / "0" / "model.safetensors"
    os.truncate(weights, 8 * 2**40)
    with pytest.raises(CorgiError, match=r"encoder vit has weights of 8796\.1 GB.*this machine"):
        ClipEnsemble.load(tmp_path / "clip")
    tokens = tmp_path / "t5"
    tokens.mkdir()
    (tokens / "model.safetensors").touch()
    os.truncate(tokens / "model.safetensors", 8 * 2**40)
    with pytest.raises(CorgiError, match=r"encoder \S*t5 has weights of 8796\.1 GB"):
        TokenEncoder.load(str(tokens), 8)


def test_an_encoder_larger_than_a_gpu_is_refused_before_it_is_moved() -> None:
    """One number, seen 10^13 times: it takes no memory here, and would there."""
    large = nn.Module()
    large.register_buffer("weights", torch.zeros(1).expand(10**13))
    with pytest.raises(CorgiError, match=r"encoder ViT has weights of 40000\.0 GB.*device meta"):
        check_model_fits(large, "ViT", torch.device("meta"))
    check_model_fits(large, "ViT", torch.device("cpu"))  # where it is already
