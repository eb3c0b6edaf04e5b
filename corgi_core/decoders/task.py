"""What the decoder learns: to denoise all training images, knowing their embeddings."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn

from corgi_core.data.arrays import ArrayStore
from corgi_core.data.balance import balanced_rows
from corgi_core.decoders.components import PrincipalComponents
from corgi_core.decoders.model import DecoderModel
from corgi_core.decoders.network import DecoderNetwork, DecoderShape
from corgi_core.decoders.noise import T, blurred_embedding, denoising_loss, forward_process
from corgi_core.errors import CorgiError
from corgi_core.presets import DecoderSettings
from corgi_core.training.loop import StepRandom, Task

HELD_OUT_IMAGES = 256


@dataclass
class DecoderTask(Task):
    """Training of the decoder (a `Task` of the training loop). Captions play no part.

    `pixels` holds "pixels", uint8 [n, 3, s, s]; `embeddings` holds "image", [n, d].
    """

    settings: DecoderSettings
    pixels: ArrayStore
    embeddings: ArrayStore
    train_keys: Collection[str]
    test_keys: Collection[str]

    def __post_init__(self) -> None:
        self.train_keys = tuple(sorted(self.train_keys))
        self.test_keys = tuple(sorted(self.test_keys))
        size, values = self.settings.image_size, 3 * self.settings.image_size**2
        if self.settings.components > values:
            raise CorgiError(
                f"pictures of {size} pixels have no {self.settings.components} components",
                f"set decoder.components to {values} or less",
            )
        if self.pixels.spec["size"] != size:
            raise CorgiError(
                f"the pixels are {self.pixels.spec['size']} to a side, "
                f"the decoder's image_size is {size}",
                "materialise the pixels again with the present preset",
            )

    @property
    def rows(self) -> int:
        return len(self._order)

    def build(self) -> nn.Module:
        s = self.settings
        return DecoderNetwork(
            DecoderShape(
                self.embeddings.spec["width"], s.image_size, s.components, s.width, s.vectors,
                s.vector_width,
            )
        )  # fmt: skip

    def prepare(self, model: nn.Module) -> None:
        """The components of the training pictures, and the whitening of their embeddings."""
        assert isinstance(model, DecoderNetwork)
        model.components.load_state_dict(self._components.state_dict())
        model.whiten_for(self._training_embeddings)

    def loss(self, model: nn.Module, rows: Tensor, random: StepRandom) -> dict[str, Tensor]:
        """One (t, noise) a picture, its embedding blurred now and then. rows [b] → mean loss."""
        x_0, z = (tensor[self._order[rows]].to(random.device) for tensor in self._training)
        s = self.settings
        cosine = 1 - (1 - s.least_cosine) * random.uniform()
        cosine = torch.where(random.uniform() < s.blurred, cosine, 1.0)
        z = blurred_embedding(z, cosine, random.normal(z.shape[1]), self.embeddings.spec["blocks"])
        t = random.integers(T)
        x_t = self._process.add_noise(x_0, random.normal(x_0.shape[1]), t.int())  # type: ignore[arg-type]
        predicted = model(x_t, t, z, random.uniform() < s.embedding_dropout)
        alpha_bar = self._process.alphas_cumprod.to(t.device)[t]
        return {"loss": denoising_loss(x_0, predicted, alpha_bar, 3 * s.image_size**2)}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Denoising loss and the error of few-step reconstructions, on fixed held-out images."""
        if not self.test_keys:
            return {}
        assert isinstance(model, DecoderNetwork)
        device = model.centre.device
        pixels, z = (tensor.to(device) for tensor in self._held_out)
        t = torch.linspace(0, T - 1, len(z), device=device).long()
        x_0 = model.components.coordinates(_in_range(pixels))
        noise = StepRandom(0, 0, len(z), device=device).normal(x_0.shape[1])
        x_t = self._process.add_noise(x_0, noise, t.int())  # type: ignore[arg-type]
        predicted = model(x_t, t, z, torch.zeros(len(z), dtype=torch.bool, device=device))
        alpha_bar = self._process.alphas_cumprod.to(device)[t]
        decoded = DecoderModel(model, self.settings, self.embeddings.spec, card={}).decode(z)
        return {
            "held_out_loss": float(denoising_loss(x_0, predicted, alpha_bar, pixels[0].numel())),
            "held_out_pixel_error": _error(decoded, pixels),
        }

    @cached_property
    def _process(self) -> DDPMScheduler:
        return forward_process(self.settings.noise_shift)

    @cached_property
    def _components(self) -> PrincipalComponents:
        components = PrincipalComponents(self.settings.image_size, self.settings.components)
        components.fit(_in_range(self._pixels_of(self.train_keys)))
        return components

    @cached_property
    def _training(self) -> tuple[Tensor, Tensor]:
        """Coordinates [n, k] and embeddings [n, d]."""
        pictures = _in_range(self._pixels_of(self.train_keys))
        return self._components.coordinates(pictures), self._training_embeddings

    @cached_property
    def _training_embeddings(self) -> Tensor:
        return self._embeddings_of(self.train_keys)

    @cached_property
    def _order(self) -> Tensor:
        """Rows of `_training`, those of pictures without near twins more often."""
        return torch.from_numpy(balanced_rows(self._training_embeddings.numpy()))

    @cached_property
    def _held_out(self) -> tuple[Tensor, Tensor]:
        """Pixels [n, 3, s, s] and embeddings [n, d]."""
        spaced = np.linspace(0, len(self.test_keys) - 1, HELD_OUT_IMAGES).astype(int)
        keys = [tuple(self.test_keys)[i] for i in np.unique(spaced)]
        return self._pixels_of(keys), self._embeddings_of(keys)

    def _pixels_of(self, keys: Collection[str]) -> Tensor:
        """uint8 [n, 3, s, s] of the images `keys`."""
        return torch.from_numpy(self.pixels.read("pixels")[self.pixels.rows_of(keys)])

    def _embeddings_of(self, keys: Collection[str]) -> Tensor:
        """float32 [n, d] of the images `keys`."""
        z = self.embeddings.read("image")[self.embeddings.rows_of(keys)]
        return torch.from_numpy(z.astype(np.float32))


def _error(pictures: Tensor, pixels: Tensor) -> float:
    """Root mean square error of pictures in [0, 1] against pixels in 0 … 255."""
    return float((pictures - pixels / 255).square().mean().sqrt())


def _in_range(pixels: Tensor) -> Tensor:
    """0 … 255 → −1 … 1."""
    return pixels.float() / 127.5 - 1
