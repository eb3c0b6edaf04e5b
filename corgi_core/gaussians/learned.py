"""A learned bank: equation (5), by a training of its own.

    L_p = − E cos(z_0, z_T ∼ p_{c(y)}) + ξ · mean_{i≠j} cos(μᵢ, μⱼ)

L_p does not depend on the denoiser, and no gradient of its loss (4) reaches the bank. So a bank
that is learned first and then held still is the bank that learning both at once would end with;
and the prior has a target that does not move under it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from corgi_core.config import GaussianSettings
from corgi_core.data.arrays import ArrayStore
from corgi_core.data.keys import KeySet
from corgi_core.encoders.similarity import mean_encoder_cosine, unit_per_encoder
from corgi_core.errors import CorgiError
from corgi_core.gaussians.bank import GaussianBank
from corgi_core.training.randomness import StepRandom
from corgi_core.training.rows import ChosenRows
from corgi_core.training.task import ALONE, Task
from corgi_core.training.waiting import Meeting

# A learned standard deviation stays within a factor of 10 of the fitted one, because the first term
# of L_p alone shrinks every Gaussian to a point. Whitened by a tenth of their standard deviation,
# embeddings have a root mean square of 10, and a share of √ᾱ_T = 0.0064 of that is left at t = T.
# This is still little against noise of 1, so sampling may start from pure noise. Whitened by a
# hundredth, it would not be.
MAX_SCALING = 10.0
HELD_OUT_CAPTIONS = 4096


class LearnedBank(nn.Module):
    """A bank whose means μ and standard deviations κσ · 10^{tanh λ} are learned, κσ being fitted.

    Parameters: means [k, d] and log_scales λ [k, d], 0 at first. The standard deviations are
    positive and between a tenth of the fitted ones and ten times them, whatever λ is.
    """

    fitted_std: Tensor
    sizes: Tensor

    def __init__(self, fitted: GaussianBank) -> None:
        super().__init__()
        self.means = nn.Parameter(fitted.means.clone())
        self.log_scales = nn.Parameter(torch.zeros_like(fitted.std))
        self.register_buffer("fitted_std", fitted.std.clone())
        self.register_buffer("sizes", fitted.sizes.clone())
        self._config = fitted.config

    @property
    def std(self) -> Tensor:
        """The present standard deviations [k, d]."""
        return self.fitted_std * MAX_SCALING ** self.log_scales.tanh()

    @torch.no_grad()
    def to_bank(self) -> GaussianBank:
        """The present Gaussians, detached."""
        tensors = {"means": self.means, "std": self.std, "sizes": self.sizes}
        return GaussianBank.from_state(tensors, self._config)

    def forward(self, z_0: Tensor, text: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """E cos(z_0, z_T) and mean_{i≠j} cos(μᵢ, μⱼ), both scalars. z_0, text, noise [n, d].

        z_T = μ_c + κσ_c ε, so gradients reach μ and σ; none goes through the choice c(y).
        """
        c = self.to_bank().assign(text)
        z = self.means[c] + self.std[c] * noise
        encoder_dims = self._config["encoder_dims"]
        return mean_encoder_cosine(z_0, z, encoder_dims).mean(), mean_overlap(
            self.means, encoder_dims
        )


def mean_overlap(means: Tensor, encoder_dims: list[int]) -> Tensor:
    """mean_{i≠j} cos(μᵢ, μⱼ), averaged over encoders; 0 for one Gaussian. means [k, d] → scalar.

    In O(k d): for unit vectors, Σ_{i≠j} ⟨μ̂ᵢ, μ̂ⱼ⟩ = ‖Σ μ̂ᵢ‖² − k.
    """
    k = len(means)
    if k == 1:
        return means.sum() * 0
    return (
        unit_per_encoder(means, encoder_dims).sum(dim=0).square().sum() / len(encoder_dims) - k
    ) / (k * (k - 1))


@dataclass
class BankTask(Task[LearnedBank]):
    """The training of one bank, from captioned training images."""

    settings: GaussianSettings
    images: ArrayStore
    texts: ArrayStore
    train_keys: KeySet  # images without a caption are not used
    validation_keys: KeySet
    fitted: GaussianBank

    @property
    def rows(self) -> int:
        """How many training captions there are."""
        if not (count := len(self._training)):
            raise CorgiError(
                "no training image has a caption, so no Gaussian is ever chosen",
                "ingest captions, or take a variant whose bank is not learned",
            )
        return count

    @property
    def shard_rows(self) -> list[int]:
        """How many training captions each shard has."""
        return self._training.shard_rows

    def prepare_data(self, folder: Path) -> None:
        """Count the captions once: others read the counts."""
        self._training.prepare(folder, "training-captions")

    def build(self) -> LearnedBank:
        """The bank to start from: the fitted one."""
        return LearnedBank(self.fitted)

    def batch(self, rows: Tensor, random: StepRandom) -> tuple[Tensor, Tensor]:
        """Image and text embeddings of captions, [b, d] as stored."""
        return self._pairs(self._training, rows)

    def loss(
        self, model: nn.Module, batch: tuple[Tensor, Tensor], random: StepRandom
    ) -> dict[str, Tensor]:
        """Equation (5), one z_T a caption: the loss and its two terms."""
        z_0, text = (embeddings.float() for embeddings in batch)
        cosine, overlap = model(z_0, text, random.normal(z_0.shape[1]))
        return {
            "loss": -cosine + self.settings.xi * overlap,
            "cosine": cosine,
            "overlap": overlap,
        }

    def evaluate(self, model: LearnedBank, workers: Meeting = ALONE) -> dict[str, float]:
        """E cos(z_0, z_T) on held-out captions, of the learned and of the fitted bank."""
        z_0, text = (pairs.to(model.means.device).float() for pairs in self._held_out)
        if not len(z_0):
            return {}
        noise = StepRandom(0, 0, len(z_0)).normal(z_0.shape[1]).to(z_0.device)
        fitted = LearnedBank(self.fitted).to(z_0.device)
        return {
            "held_out_cosine": float(model(z_0, text, noise)[0]),
            "held_out_cosine_fitted": float(fitted(z_0, text, noise)[0]),
            "gaussians_chosen": float(len(torch.unique(model.to_bank().assign(text)))),
        }

    @cached_property
    def _training(self) -> ChosenRows:
        return ChosenRows(self.texts, self.train_keys)

    @cached_property
    def _held_out(self) -> tuple[Tensor, Tensor]:
        """Those of evenly spaced held-out captions."""
        captions = ChosenRows(self.texts, self.validation_keys)
        return self._pairs(captions, captions.spaced(HELD_OUT_CAPTIONS))

    def _pairs(self, captions: ChosenRows, rows: Tensor) -> tuple[Tensor, Tensor]:
        image, text = captions.gather(rows, (self.images, "image"), (self.texts, "text"))
        return image, text
