"""What the PCA decoder learns: to denoise all training images, knowing their embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn

from corgi_core.config import PCASettings
from corgi_core.decoders.noise import T, forward_process
from corgi_core.decoders.pca.basis import PrincipalComponents
from corgi_core.decoders.pca.decoder import PCADecoder
from corgi_core.decoders.pca.network import PCANetwork, PCAShape
from corgi_core.decoders.picture_task import PictureTask, in_range
from corgi_core.errors import CorgiError
from corgi_core.training.randomness import StepRandom

MAX_WEIGHT = 5.0


@dataclass
class PCATask(PictureTask[PCASettings, PCANetwork]):
    """Training of a PCA decoder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        size, values = self.settings.image_size, 3 * self.settings.image_size**2
        if self.settings.components > values:
            raise CorgiError(
                f"pictures of {size} pixels have no {self.settings.components} components",
                f"set decoder.components to {values} or less",
            )

    def build(self) -> PCANetwork:
        s = self.settings
        return PCANetwork(
            PCAShape(
                self.embeddings.spec["width"], s.image_size, s.components, s.width, s.vectors,
                s.vector_width,
            )
        )  # fmt: skip

    def decoder(self, model: PCANetwork, card: Mapping[str, Any]) -> PCADecoder:
        return PCADecoder(model, self.settings, self.embeddings.spec, card)

    def fit(self, model: PCANetwork) -> None:
        """The components of the training pictures, and the whitening of their embeddings."""
        model.components.load_state_dict(self._components.state_dict())
        model.white.fit(self.training_embeddings)

    def loss(self, model: nn.Module, rows: Tensor, random: StepRandom) -> dict[str, Tensor]:
        """One (t, noise) a picture, its embedding blurred now and then. rows [b] → mean loss."""
        pictures = self.order[rows]
        x_0 = self._training_coordinates[pictures].to(random.device)
        z = self.blurred(self.training_embeddings[pictures].to(random.device), random)
        t = random.integers(T)
        x_t = self._process.add_noise(x_0, random.normal(x_0.shape[1]), t.int())  # type: ignore[arg-type]
        predicted = model(x_t, t, z, random.uniform() < self.settings.cond_dropout)
        alpha_bar = self._process.alphas_cumprod.to(t.device)[t]
        return {"loss": denoising_loss(x_0, predicted, alpha_bar, 3 * self.settings.image_size**2)}

    def evaluate(self, model: PCANetwork) -> dict[str, float]:
        """Denoising loss and the error of few-step reconstructions, on fixed held-out images."""
        if not self.test_keys:
            return {}
        device = model.nothing.device
        pixels, z = (tensor.to(device) for tensor in self.held_out)
        t = torch.linspace(0, T - 1, len(z), device=device).long()
        x_0 = model.components.coordinates(in_range(pixels))
        noise = StepRandom(0, 0, len(z), device=device).normal(x_0.shape[1])
        x_t = self._process.add_noise(x_0, noise, t.int())  # type: ignore[arg-type]
        predicted = model(x_t, t, z, torch.zeros(len(z), dtype=torch.bool, device=device))
        alpha_bar = self._process.alphas_cumprod.to(device)[t]
        loss = denoising_loss(x_0, predicted, alpha_bar, pixels[0].numel())
        return {"held_out_loss": float(loss)} | super().evaluate(model)

    @cached_property
    def _process(self) -> DDPMScheduler:
        return forward_process(self.settings.noise_shift)

    @cached_property
    def _components(self) -> PrincipalComponents:
        if self.tuning is not None:  # its network knows no others
            network = self.tuning.start.network
            assert isinstance(network, PCANetwork)
            return network.components
        components = PrincipalComponents(self.settings.image_size, self.settings.components)
        components.fit(in_range(self.training_pixels))
        return components

    @cached_property
    def _training_coordinates(self) -> Tensor:
        """[n, k], in the order of the training keys."""
        return self._components.coordinates(in_range(self.training_pixels))


def denoising_loss(x_0: Tensor, predicted: Tensor, alpha_bar: Tensor, values: int) -> Tensor:
    """Weighted squared error of x̂_0, as a mean over the batch: w_t ‖x_0 − x̂_0‖² / values.

    Args:
        x_0: PCA coordinates [n, k] of the images.
        predicted: The network's x̂_0 [n, k].
        alpha_bar: ᾱ [n] at each image's timestep.
        values: Number of pixel values of an image, 3·s·s.

    Returns:
        A scalar.
    """
    errors = (x_0 - predicted).square().sum(dim=1) / values
    return torch.mean(truncated_snr_weights(alpha_bar) * errors)


def truncated_snr_weights(alpha_bar: Tensor) -> Tensor:
    """w [n] = clamp(SNR, 1, 5): Salimans & Ho 2022's truncated SNR, bounded as by Hang et al."""
    return (alpha_bar / (1 - alpha_bar)).clamp(1.0, MAX_WEIGHT)
