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
from corgi_core.decoders.model import DecoderModel
from corgi_core.decoders.network import DecoderNetwork, DecoderShape
from corgi_core.decoders.noise import T, denoising_loss, forward_process
from corgi_core.errors import CorgiError
from corgi_core.presets import DecoderSettings
from corgi_core.training.loop import StepRandom

HELD_OUT_IMAGES = 32


@dataclass
class DecoderTask:
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
        batch, denoised = self.settings.training.batch_size, self.settings.denoised
        if not 1 <= denoised <= batch or batch % denoised:
            raise CorgiError(
                f"{denoised} of a batch of {batch} pictures cannot be denoised",
                "set decoder.denoised to a divisor of the batch size",
            )
        if self.pixels.spec["size"] != self.settings.image_size:
            raise CorgiError(
                f"the pixels are {self.pixels.spec['size']} to a side, "
                f"the decoder's image_size is {self.settings.image_size}",
                "materialise the pixels again with the present preset",
            )

    @property
    def rows(self) -> int:
        return len(self.train_keys)

    def build(self) -> nn.Module:
        s = self.settings
        network = DecoderNetwork(
            DecoderShape(
                self.embeddings.spec["width"], s.image_size, s.patch, s.channels, s.attention,
                s.layers_per_block, s.vectors, s.painter_width, s.painter_layers,
            )
        )  # fmt: skip
        network.whiten_for(self._training[1])
        return network

    def loss(self, model: nn.Module, rows: Tensor, random: StepRandom) -> dict[str, Tensor]:
        """All pictures painted, every few-th also denoised, one (t, noise) each. rows [b] → means.

        Which ones are denoised depends on their place in the global batch, not on the workers.
        """
        stride = self.settings.training.batch_size // self.settings.denoised
        order = (torch.arange(len(rows)) % stride).sort(stable=True).indices
        x_0, z = (tensor[rows[order]].to(random.device) for tensor in self._training)
        x_0 = _in_range(x_0)
        t = random.integers(T)[::stride]
        noise = random.normal(*x_0.shape[1:])[::stride]
        dropped = random.uniform()[::stride] < self.settings.embedding_dropout
        n = len(t)
        x_t = self._process.add_noise(x_0[:n], noise, t.int())  # type: ignore[arg-type]
        predicted, painted = model(x_t, t, z, dropped)
        denoising = denoising_loss(x_0[:n], predicted, self._process.alphas_cumprod[t])
        painting = (x_0 - painted).square().mean()
        return {"loss": denoising + painting, "denoising": denoising, "painting": painting}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Denoising loss and the error of few-step reconstructions, on fixed held-out images."""
        if not self.test_keys:
            return {}
        assert isinstance(model, DecoderNetwork)
        pixels, z = self._held_out
        random = StepRandom(0, 0, len(z))
        t = torch.linspace(0, T - 1, len(z)).long()
        x_0 = _in_range(pixels)
        noise = random.normal(*x_0.shape[1:])
        x_t = self._process.add_noise(x_0, noise, t.int())  # type: ignore[arg-type]
        predicted, painted = model(x_t, t, z, torch.zeros(len(z), dtype=torch.bool))
        loss = denoising_loss(x_0, predicted, self._process.alphas_cumprod[t])
        decoded = DecoderModel(model, self.settings, self.embeddings.spec, card={}).decode(z)
        return {
            "held_out_loss": float(loss),
            "held_out_pixel_error": _error(decoded, pixels),
            "held_out_painted_error": _error((painted.clamp(-1, 1) + 1) / 2, pixels),
        }

    @cached_property
    def _process(self) -> DDPMScheduler:
        return forward_process(self.settings.noise_shift)

    @cached_property
    def _training(self) -> tuple[Tensor, Tensor]:
        return self._read(self.train_keys)

    @cached_property
    def _held_out(self) -> tuple[Tensor, Tensor]:
        spaced = np.linspace(0, len(self.test_keys) - 1, HELD_OUT_IMAGES).astype(int)
        return self._read([tuple(self.test_keys)[i] for i in np.unique(spaced)])

    def _read(self, keys: Collection[str]) -> tuple[Tensor, Tensor]:
        """Pixels uint8 [n, 3, s, s] and embeddings float32 [n, d] of the images `keys`."""
        pixels = self.pixels.read("pixels")[self.pixels.rows_of(keys)]
        z = self.embeddings.read("image")[self.embeddings.rows_of(keys)]
        return torch.from_numpy(pixels), torch.from_numpy(z.astype(np.float32))


def _error(pictures: Tensor, pixels: Tensor) -> float:
    """Root mean square error of pictures in [0, 1] against pixels in 0 … 255."""
    return float((pictures - pixels / 255).square().mean().sqrt())


def _in_range(pixels: Tensor) -> Tensor:
    """0 … 255 → −1 … 1."""
    return pixels.float() / 127.5 - 1
