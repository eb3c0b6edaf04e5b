"""A trained cascade draws what its embeddings stand for; an all-knowing one draws it exactly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from corgi_core.config import CascadeSettings, StageSettings
from corgi_core.data.arrays import ArrayStore, compute_missing
from corgi_core.data.dataset import Dataset
from corgi_core.decoders.cascade.condition import smaller
from corgi_core.decoders.cascade.decoder import CascadeDecoder
from corgi_core.decoders.cascade.network import CascadeNetwork, CascadeShape
from corgi_core.decoders.cascade.prediction import prediction_target
from corgi_core.decoders.cascade.task import CascadeTask
from corgi_core.decoders.decoder import Text
from corgi_core.decoders.noise import forward_process
from corgi_core.decoders.picture_task import in_range
from corgi_core.decoders.registry import load_decoder
from corgi_core.errors import CorgiError
from corgi_core.training.loop import train
from corgi_core.training.randomness import StepRandom
from tests.helpers.cascades import TINY_CASCADE, a_cascade_task, altered
from tests.helpers.shapes import SHAPES, SIDE, WIDTH

ENCODERS = {"encoder_dims": [WIDTH], "width": WIDTH}


@pytest.fixture(scope="module")
def cascade_task(tmp_path_factory: pytest.TempPathFactory) -> CascadeTask:
    return a_cascade_task(tmp_path_factory.mktemp("cascade"))


@pytest.fixture(scope="module")
def cascade(cascade_task: CascadeTask, tmp_path_factory: pytest.TempPathFactory) -> CascadeDecoder:
    result = train(cascade_task, TINY_CASCADE.training, tmp_path_factory.mktemp("run"))
    return cascade_task.decoder(result.model, {"metrics": result.metrics})


@pytest.fixture(scope="module")
def z(cascade_task: CascadeTask) -> Tensor:
    return cascade_task.training_embeddings


def fresh(settings: CascadeSettings = TINY_CASCADE, seed: int = 0) -> CascadeDecoder:
    torch.manual_seed(seed)
    network = CascadeNetwork(CascadeShape.of(settings, WIDTH)).eval()
    return CascadeDecoder(network, settings, ENCODERS, card={})


def test_every_picture_is_nearest_to_its_own_original(
    cascade: CascadeDecoder, cascade_task: CascadeTask, z: Tensor
) -> None:
    drawn, real = cascade.decode(z), cascade_task.training_pixels / 255
    nearest = torch.cdist(drawn.flatten(1), real.flatten(1)).argmin(dim=1)
    assert (nearest == torch.arange(SHAPES)).sum() >= SHAPES - 1
    error = (drawn - real).square().mean().sqrt()
    assert error < 0.15, error  # the shapes themselves are this far apart: > 0.3 on average
    turned = cascade.decode(z.roll(1, dims=0)).flatten(1)
    assert (torch.cdist(turned, real.flatten(1)).argmin(dim=1) != torch.arange(SHAPES)).all()


def test_the_metrics_log_tells_the_stages_apart(cascade: CascadeDecoder) -> None:
    metrics = cascade.card["metrics"]
    for name in ("", "held_out_"):
        sizes = [metrics[f"{name}loss_{stage.size}"] for stage in TINY_CASCADE.stages]
        assert metrics[f"{name}loss"] == pytest.approx(np.mean(sizes), rel=1e-5)
    assert metrics["held_out_pixel_error"] < 0.15


class Oracle(nn.Module):
    """Knows the picture, so it predicts the true target at any x_t."""

    def __init__(self, x_0: Tensor, stage: StageSettings, prediction: str) -> None:
        super().__init__()
        self.x_0, self.prediction = x_0, prediction
        self.alpha_bar = forward_process(stage.noise_shift).alphas_cumprod
        self.beside: list[Tensor] = []

    def forward(self, x: Tensor, t: Tensor, *_: object) -> Tensor:
        alpha_bar = self.alpha_bar[t]
        self.beside.append(x[:, 3:])
        a = alpha_bar.view(-1, 1, 1, 1)
        noise = (x[:, :3] - a.sqrt() * self.x_0) / (1 - a).sqrt()
        return prediction_target(self.prediction, self.x_0, noise, alpha_bar)


@pytest.mark.parametrize("prediction", ["v", "noise"])
@pytest.mark.parametrize("steps", [1, 5])
def test_a_cascade_that_knows_the_pictures_draws_them(
    cascade_task: CascadeTask, z: Tensor, prediction: str, steps: int
) -> None:
    settings = altered(prediction=prediction, sampling_noise=0.0)
    decoder, pictures = fresh(settings), in_range(cascade_task.training_pixels)
    decoder.network.stages = nn.ModuleList(
        Oracle(smaller(pictures, stage.size), stage, prediction) for stage in settings.stages
    )
    drawn = decoder.decode(z, steps=steps)
    torch.testing.assert_close(drawn, (pictures + 1) / 2, atol=2e-3, rtol=0)
    condition = decoder.network.stages[1].beside[0]  # with no noise, the smaller picture itself
    small = nn.functional.interpolate(smaller(pictures, 8), size=(SIDE, SIDE), mode="bilinear")
    torch.testing.assert_close(condition, small, atol=5e-3, rtol=0)


def test_a_picture_depends_on_seed_and_number_only(
    cascade: CascadeDecoder, z: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    many, few = cascade.decode(z, seed=5), cascade.decode(z[:3], seed=5)
    torch.testing.assert_close(many[:3], few, atol=1e-3, rtol=0)
    monkeypatch.setattr("corgi_core.decoders.cascade.decoder.PIXELS_AT_ONCE", 5 * SIDE**2)
    torch.testing.assert_close(cascade.decode(z, seed=5), many, atol=1e-3, rtol=0)
    assert (cascade.decode(z[:3], seed=6) - few).abs().max() > 1e-2


def test_guidance_needs_dropout_and_changes_the_picture(cascade: CascadeDecoder, z: Tensor) -> None:
    guided = cascade.decode(z[:2], guidance=2.0)
    assert (guided - cascade.decode(z[:2])).abs().max() > 1e-3
    undropped = replace(cascade.settings, cond_dropout=0.0)
    unguidable = CascadeDecoder(cascade.network, undropped, cascade.encoders, card={})
    with pytest.raises(CorgiError, match="dropout"):
        unguidable.decode(z[:1], guidance=2.0)


def test_save_and_load_give_the_same_decoder(
    cascade: CascadeDecoder, z: Tensor, tmp_path: Path
) -> None:
    cascade.save(tmp_path / "decoder")
    loaded = load_decoder(tmp_path / "decoder")
    assert isinstance(loaded, CascadeDecoder)
    assert loaded.digest == cascade.digest
    assert loaded.settings == cascade.settings
    assert loaded.network.shape == cascade.network.shape
    torch.testing.assert_close(loaded.decode(z, seed=1), cascade.decode(z, seed=1))


def test_a_large_picture_is_denoised_in_tiles() -> None:
    """The UNet sees tiles alone, and every pixel is drawn."""
    stages = (
        StageSettings(size=16, channels=(8, 16), layers=1, attention_levels=1, noise_shift=0.0),
        StageSettings(size=64, channels=(8, 16), layers=1, attention_levels=0, noise_shift=0.0),
    )
    decoder = fresh(altered(image_size=64, stages=stages, tile=32, overlap=8))
    sides: set[int] = set()
    decoder.network.stages[1].register_forward_pre_hook(
        lambda _, inputs: sides.add(inputs[0].shape[-1])
    )
    picture = decoder.decode(torch.randn(1, WIDTH), steps=2)
    assert sides == {32}
    assert picture.shape == (1, 3, 64, 64)
    assert picture.isfinite().all()


@pytest.fixture(scope="module")
def texts(cascade_task: CascadeTask, tmp_path_factory: pytest.TempPathFactory) -> ArrayStore:
    """Two captions of every picture but the last, of four tokens of width 5."""
    folder = tmp_path_factory.mktemp("texts")
    images = Dataset.load(cascade_task.pixels.folder.parent / "images")
    random = np.random.default_rng(0)

    def compute(shard: str) -> dict[str, np.ndarray]:
        keys = np.repeat(np.array(cascade_task.train_keys[:-1]), 2)
        tokens = random.standard_normal((len(keys), 4, 5)).astype(np.float16)
        return {"keys": keys, "tokens": tokens, "mask": np.ones((len(keys), 4), dtype=bool)}

    spec = {"text_width": 5, "text_encoder": "made up"}
    return compute_missing(folder, images, spec, compute, "texts")


def test_a_cascade_reads_words_beside_the_embedding(
    cascade_task: CascadeTask, texts: ArrayStore, z: Tensor
) -> None:
    settings = altered(text_width=5, text_dropout=0.0, cond_dropout=0.0)
    reading = replace(cascade_task, settings=settings, texts=texts)
    torch.manual_seed(0)
    network, seen = reading.build(), []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[-1]))
    keys = list(cascade_task.train_keys)
    chosen = reading.order[torch.arange(SHAPES)]
    reading.loss(network, torch.arange(SHAPES), StepRandom(0, 0, SHAPES))["loss"].backward()
    assert all(p.grad is not None for p in network.parameters())
    for place, picture in enumerate(chosen.tolist()):
        if keys[picture] == keys[-1]:
            assert not seen[0].mask[place].any()
        else:
            first = texts.read("tokens")[texts.rows_of([keys[picture]])[0]]
            np.testing.assert_array_equal(seen[0].tokens[place].numpy(), first)
    decoder = reading.decoder(network.eval(), {})
    assert decoder.reads_text
    assert decoder.encoders["text_encoder"] == "made up"
    words = Text(torch.randn(2, 4, 5), torch.ones(2, 4, dtype=torch.bool))
    assert (decoder.decode(z[:2], words) - decoder.decode(z[:2])).abs().max() > 1e-4


def test_words_outside_the_caption_subset_are_not_there(
    cascade_task: CascadeTask, texts: ArrayStore
) -> None:
    settings, keys = altered(text_width=5, text_dropout=0.0), list(cascade_task.train_keys)
    settings = replace(settings, cond_dropout=0.0)
    reading = replace(cascade_task, settings=settings, texts=texts, captioned=keys[:3])
    network, seen = reading.build(), []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[-1]))
    reading.loss(network, torch.arange(SHAPES), StepRandom(0, 0, SHAPES))
    chosen = reading.order[torch.arange(SHAPES)].tolist()
    there = [keys[picture] in keys[:3] for picture in chosen]
    assert seen[0].mask.any(dim=1).tolist() == there
    assert 0 < sum(there) < SHAPES


def test_hidden_words_are_hidden(cascade_task: CascadeTask, texts: ArrayStore) -> None:
    for hiding in ({"text_dropout": 1.0}, {"text_dropout": 0.0, "cond_dropout": 1.0}):
        settings = altered(text_width=5, **hiding)
        reading = replace(cascade_task, settings=settings, texts=texts)
        network, seen = reading.build(), []
        network.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[-1]))
        reading.loss(network, torch.arange(SHAPES), StepRandom(0, 0, SHAPES))
        assert not seen[0].mask.any()


def test_words_and_their_width_go_together(
    cascade_task: CascadeTask, texts: ArrayStore, cascade: CascadeDecoder, z: Tensor
) -> None:
    for settings, store in ((altered(text_width=5), None), (TINY_CASCADE, texts)):
        with pytest.raises(CorgiError, match="tokens have width"):
            replace(cascade_task, settings=settings, texts=store)
    words = Text(torch.randn(1, 4, 5), torch.ones(1, 4, dtype=torch.bool))
    with pytest.raises(CorgiError, match="reads no text"):
        cascade.decode(z[:1], words)
