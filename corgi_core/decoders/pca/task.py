"""Training of the PCA decoder: denoising of all training images, conditioned on embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from corgi_core.config import PCASettings
from corgi_core.data.arrays import Arrays, ArrayStore, compute_missing
from corgi_core.decoders.decoder import signed
from corgi_core.decoders.pca.basis import MAX_FITTED, PrincipalComponents
from corgi_core.decoders.pca.decoder import PCADecoder
from corgi_core.decoders.pca.network import PCANetwork, PCAShape
from corgi_core.decoders.task import DecoderTask
from corgi_core.diffusion.schedule import Schedule
from corgi_core.errors import CorgiError
from corgi_core.io.files import atomic_file, digest_of
from corgi_core.io.model_folder import digest_of_tensors
from corgi_core.streaming.squares import Squares
from corgi_core.training.checkpoint import on_cpu
from corgi_core.training.randomness import StepRandom
from corgi_core.training.task import ALONE
from corgi_core.training.waiting import Meeting

MAX_WEIGHT = 5.0
PROJECTED_AT_ONCE = 256  # images


class CoordinateBatch(NamedTuple):
    """Training images: PCA coordinates x_0 [b, k], and their embeddings z [b, d] as stored."""

    x_0: Tensor
    z: Tensor


@dataclass
class PCATask(DecoderTask[PCASettings, PCANetwork]):
    """Training of a PCA decoder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        size, values = self.settings.image_size, 3 * self.settings.image_size**2
        if self.settings.components > values:
            raise CorgiError(
                f"images of {size} pixels have no {self.settings.components} components",
                f"set decoder.components to {values} or less",
            )

    def build(self) -> PCANetwork:
        """The untrained network."""
        s = self.settings
        return PCANetwork(
            PCAShape(
                self.embeddings.spec["width"], s.image_size, s.components, s.width, s.vectors,
                s.vector_width,
            )
        )  # fmt: skip

    def decoder(self, model: PCANetwork, card: Mapping[str, Any]) -> PCADecoder:
        """The trained network as a decoder."""
        return PCADecoder(model, self.settings, self.embeddings.spec, card)

    def fit(self, model: PCANetwork) -> None:
        """Set the components of the training images, and the whitening of their embeddings."""
        model.basis.load_state_dict(self._basis.state_dict())
        model.whitening.fit(self.spaced_embeddings)

    def prepare_data(self, folder: Path) -> None:
        """Fit the components, and project all images onto them, once: others read what was found.

        <folder>/components-<digest>.safetensors    the components
        <folder>/coordinates                        the images' coordinates, float32
        """
        super().prepare_data(folder)
        start = None if self.tuning is None else self.tuning.start.digest
        of = digest_of(self.pixels.digest, self.train_keys.digest, start)
        path = folder / f"components-{of}.safetensors"
        if path.exists():
            self._basis = PrincipalComponents(self.settings.image_size, self.settings.components)
            self._basis.load_state_dict(load_file(path))
        else:
            with atomic_file(path) as temporary:
                save_file(on_cpu(self._basis.state_dict()), str(temporary))
        spec = {"components": digest_of_tensors(self._basis.state_dict())}
        self._coordinates = compute_missing(
            folder / "coordinates", self.pixels, spec, self._projected_shard, "coordinates"
        )

    def batch(self, rows: Tensor, random: StepRandom) -> CoordinateBatch:
        """The images of rows [b] as coordinates; projected here if `prepare_data` has not."""
        if self._coordinates is None:
            pixels, z = self.pictures(self.training, rows)
            return CoordinateBatch(self._basis.project(signed(pixels)), z)
        wanted = (self._coordinates, "coordinates"), (self.embeddings, "image")
        return CoordinateBatch(*self.training.gather(rows, *wanted))

    @property
    def squares(self) -> Squares | None:
        """The images that `batch` reads; None where `prepare_data` has projected them."""
        return self._squares if self._coordinates is None else None

    def loss(
        self, model: nn.Module, batch: CoordinateBatch, random: StepRandom
    ) -> dict[str, Tensor]:
        """The mean `denoising_loss`, at one (t, noise) an image."""
        x_0, z = batch.x_0, self.perturbed(batch.z.float(), random)
        t = random.integers(self._schedule.num_timesteps)
        x_t = self._schedule.add_noise(x_0, random.normal(x_0.shape[1]), t)
        predicted = model(x_t, t, z, random.uniform() >= self.settings.cond_dropout)
        return {"loss": self._loss_of(x_0, predicted, t)}

    def evaluate(self, model: PCANetwork, workers: Meeting = ALONE) -> dict[str, float]:
        """Denoising loss, and the error of few-step samples, on fixed held-out images."""
        if not len(self.held_out.z):
            return {}
        device = model.null_embedding.device
        pixels, z = (tensor.to(device) for tensor in self.held_out)
        t = torch.linspace(0, self._schedule.num_timesteps - 1, len(z), device=device).long()
        x_0 = model.basis.project(signed(pixels))
        noise = StepRandom(0, 0, len(z)).normal(x_0.shape[1]).to(device)
        x_t = self._schedule.add_noise(x_0, noise, t)
        predicted = model(x_t, t, z, torch.ones(len(z), dtype=torch.bool, device=device))
        loss = float(self._loss_of(x_0, predicted, t))
        return {"held_out_loss": loss} | super().evaluate(model, workers)

    def _loss_of(self, x_0: Tensor, predicted: Tensor, t: Tensor) -> Tensor:
        alphas_cumprod = self._schedule.alphas_cumprod.to(t.device)[t]
        return denoising_loss(x_0, predicted, alphas_cumprod, 3 * self.settings.image_size**2)

    @cached_property
    def _schedule(self) -> Schedule:
        return Schedule.shifted_cosine(self.settings.noise_shift)

    @cached_property
    def _basis(self) -> PrincipalComponents:
        basis = PrincipalComponents(self.settings.image_size, self.settings.components)
        if self.tuning is None:
            spaced = self.images.spaced(MAX_FITTED)
            basis.fit(signed(self.pictures(self.images, spaced).pixels))
        else:  # the network to continue from has its own components
            fitted = self.tuning.start.network.get_submodule("basis")
            basis.load_state_dict(fitted.state_dict())
        return basis

    @cached_property
    def _coordinates(self) -> ArrayStore | None:
        return None

    def _projected_shard(self, shard: str) -> Arrays:
        batches = self._squares.in_batches(shard, self.pixel_size, PROJECTED_AT_ONCE)
        keys, projected = zip(
            *((keys, self._basis.project(signed(images))) for keys, images in batches), strict=True
        )
        return {"keys": np.concatenate(keys), "coordinates": torch.cat(projected).numpy()}


def denoising_loss(x_0: Tensor, predicted: Tensor, alphas_cumprod: Tensor, values: int) -> Tensor:
    """Weighted squared error of x̂_0, as a mean over the batch: w_t ‖x_0 − x̂_0‖² / values.

    Args:
        x_0: PCA coordinates [n, k] of the images.
        predicted: The network's x̂_0 [n, k].
        alphas_cumprod: ᾱ [n] at each image's timestep.
        values: Number of pixel values of an image, 3·s·s.

    Returns:
        A scalar.
    """
    errors = (x_0 - predicted).square().sum(dim=1) / values
    return torch.mean(truncated_snr_weights(alphas_cumprod) * errors)


def truncated_snr_weights(alphas_cumprod: Tensor) -> Tensor:
    """Weights w [n] = clamp(SNR, 1, 5).

    Salimans and Ho (2022) truncate the SNR from below, Hang et al. (2023) from above.
    """
    return (alphas_cumprod / (1 - alphas_cumprod)).clamp(1.0, MAX_WEIGHT)
