"""Kinds of decoders by name: a new one is trained, saved and loaded as Corgi's own are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from corgi_core.config import DECODER_SETTINGS, DecoderSettings, TrainingSettings
from corgi_core.decoders import registry
from corgi_core.decoders.decoder import Decoder, SampleOptions, TextCond
from corgi_core.decoders.registry import (
    decoder_class,
    decoder_task,
    load_decoder,
    register,
    task_class,
)
from corgi_core.decoders.task import DecoderTask, PictureBatch
from corgi_core.errors import CorgiError
from corgi_core.training.loop import train
from corgi_core.training.randomness import StepRandom
from tests.helpers.shapes import SIDE, WIDTH, a_task


@dataclass(frozen=True)
class ColourShape:
    embedding_width: int


class ColourNetwork(nn.Module):
    """One colour for each embedding."""

    def __init__(self, shape: ColourShape) -> None:
        super().__init__()
        self.shape = shape
        self.colour = nn.Linear(shape.embedding_width, 3)

    def forward(self, z: Tensor) -> Tensor:
        return self.colour(z).sigmoid()


@dataclass(frozen=True, kw_only=True)
class ColourSettings(DecoderSettings):
    kind: ClassVar[str] = "colour"


class ColourDecoder(Decoder):
    @classmethod
    def build(cls, shape: Mapping[str, Any]) -> nn.Module:
        return ColourNetwork(ColourShape(**shape))

    def sample(self, z: Tensor, text: TextCond | None, options: SampleOptions) -> Tensor:
        size = self.settings.image_size
        return self.network(z)[:, :, None, None].expand(-1, -1, size, size)


@dataclass
class ColourTask(DecoderTask[ColourSettings, ColourNetwork]):
    def build(self) -> ColourNetwork:
        return ColourNetwork(ColourShape(self.embeddings.spec["width"]))

    def decoder(self, model: ColourNetwork, card: Mapping[str, Any]) -> ColourDecoder:
        return ColourDecoder(model, self.settings, self.embeddings.spec, card)

    def loss(self, model: nn.Module, batch: PictureBatch, random: StepRandom) -> dict[str, Tensor]:
        colours = batch.pixels.float().mean(dim=(2, 3)) / 255
        errors = model(batch.z.float()) - colours
        return {"loss": errors.square().mean()}


@pytest.fixture
def colour() -> None:
    register(
        "colour",
        decoder=f"{__name__}:ColourDecoder",
        task=f"{__name__}:ColourTask",
        settings=ColourSettings,
    )


@pytest.mark.usefixtures("colour")
def test_a_registered_kind_is_trained_saved_and_loaded_by_its_name(tmp_path: Path) -> None:
    shapes = a_task(tmp_path / "data")
    settings = ColourSettings(
        image_size=SIDE, cond_dropout=0.0, perturbed=0.0, min_cosine=1.0, guidance=1.0,
        num_steps=1, training=TrainingSettings(steps=3, batch_size=4, learning_rate=1e-2),
    )  # fmt: skip
    task = decoder_task(
        settings, None, pixels=shapes.pixels, embeddings=shapes.embeddings,
        train_keys=shapes.train_keys, validation_keys=shapes.validation_keys,
    )  # fmt: skip
    result = train(task, settings.training, tmp_path / "run")
    assert result.metrics["held_out_pixel_error"] > 0
    decoder = task.decoder(result.model, {})
    decoder.save(tmp_path / "decoder")
    loaded = load_decoder(tmp_path / "decoder")
    assert isinstance(loaded, ColourDecoder)
    assert loaded.kind == "colour"
    assert loaded.settings == settings
    z = torch.randn(2, WIDTH)
    assert loaded.decode(z).shape == (2, 3, SIDE, SIDE)
    assert torch.equal(loaded.decode(z), decoder.decode(z))


def test_every_kind_that_has_settings_has_its_classes() -> None:
    assert set(registry._KINDS) == set(DECODER_SETTINGS)
    for kind in DECODER_SETTINGS:
        assert issubclass(decoder_class(kind), Decoder)
        assert issubclass(task_class(kind), DecoderTask)


def test_an_unknown_kind_and_a_wrong_registration_are_refused() -> None:
    with pytest.raises(CorgiError, match=r"no decoder 'crayon'.*"):
        decoder_class("crayon")
    with pytest.raises(CorgiError, match="kind 'colour'"):
        register("color", decoder="a:B", task="a:C", settings=ColourSettings)
    with pytest.raises(CorgiError, match="names no class"):
        register("colour", decoder="a.B", task="a:C", settings=ColourSettings)
    assert "colour" not in DECODER_SETTINGS
