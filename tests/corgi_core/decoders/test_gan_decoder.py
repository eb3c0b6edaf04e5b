"""A trained GAN generates what its embeddings stand for, from the generator alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from corgi_core.decoders.decoder import Decoder
from corgi_core.decoders.gan.decoder import GanDecoder
from corgi_core.decoders.gan.task import GanTask
from corgi_core.decoders.registry import load_decoder
from corgi_core.errors import CorgiError
from corgi_core.training.loop import train
from tests.helpers.gan_shapes import LEARNING, a_gan_task
from tests.helpers.shapes import KNOWN, SIDE, knowing_half, pictures_of

pytestmark = pytest.mark.integration  # trains, or starts processes, for seconds


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> GanTask:
    return knowing_half(a_gan_task(tmp_path_factory.mktemp("gan"), settings=LEARNING))


@pytest.fixture(scope="module")
def gan(task: GanTask, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    result = train(task, LEARNING.training, tmp_path_factory.mktemp("run"))
    return task.decoder(result.model, {"metrics": result.metrics})


@pytest.fixture(scope="module")
def z(task: GanTask) -> Tensor:
    return task.spaced_embeddings


def own(decoded: Tensor, task: GanTask) -> Tensor:
    """Which decoded pictures are nearest to their own original."""
    real = pictures_of(task).float() / 255
    nearest = torch.cdist(decoded.flatten(1), real.flatten(1)).argmin(dim=1)
    return nearest == torch.arange(KNOWN)


def test_most_pictures_are_nearest_to_their_own_original(
    gan: Decoder, task: GanTask, z: Tensor
) -> None:
    """It has learned from the adversary and contrasts alone, never from a pixel's error."""
    right = torch.stack([own(gan.decode(z, seed=seed), task) for seed in range(4)])
    assert right.float().mean() > 0.65, right
    others = own(gan.decode(z.roll(1, dims=0)), task)
    assert others.sum() <= 1, others


def test_a_picture_depends_on_seed_and_number_only(
    gan: Decoder, z: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = gan.decode(z, seed=5)
    assert (gan.decode(z[:3], seed=6) - many[:3]).abs().max() > 1e-3
    torch.testing.assert_close(many[:3], gan.decode(z[:3], seed=5), atol=1e-4, rtol=0)
    monkeypatch.setattr("corgi_core.decoders.decoder.BATCH_SIZE", 5)
    torch.testing.assert_close(many, gan.decode(z, seed=5), atol=1e-4, rtol=0)
    assert many.shape == (KNOWN, 3, SIDE, SIDE)
    assert 0 <= many.min() < many.max() <= 1


def test_save_and_load_give_the_same_decoder_without_the_discriminator(
    gan: Decoder, task: GanTask, z: Tensor, tmp_path: Path
) -> None:
    gan.save(tmp_path / "decoder")
    loaded = load_decoder(tmp_path / "decoder")
    assert isinstance(loaded, GanDecoder)
    assert (loaded.digest, loaded.card, loaded.settings) == (gan.digest, gan.card, gan.settings)
    torch.testing.assert_close(loaded.decode(z, seed=1), gan.decode(z, seed=1), atol=1e-5, rtol=0)
    saved = (tmp_path / "decoder" / "model.safetensors").stat().st_size
    weights = sum(4 * p.numel() for p in gan.network.parameters())
    assert saved < 1.1 * weights
    assert weights < sum(4 * p.numel() for p in task.build().parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [({"guidance": 2.0}, "cannot be guided"), ({"num_steps": 2}, "choose 1 step")],
)
def test_there_is_one_step_and_no_guidance(
    gan: Decoder, z: Tensor, options: dict[str, float], message: str
) -> None:
    with pytest.raises(CorgiError) as refused:
        gan.decode(z[:1], **options)  # type: ignore[arg-type]
    assert message in str(refused.value)
