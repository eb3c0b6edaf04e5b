"""How a prior's sample comes to be: its start, each z_t on the way, and each prediction ẑ_0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from corgi_core.encoders.similarity import scale_per_encoder
from corgi_core.gaussians.bank import GaussianBank, Gaussians
from corgi_core.prior.model import PriorModel

Prefix = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Trajectory:
    """The way of one sample of the prior, from noise to an embedding.

    Attributes:
        gaussian: The number of the Gaussian that it starts from.
        start: That Gaussian, of one caption: mean and std [1, d].
        timesteps: Of the points, descending: T for pure noise, 0 for the sample.
        z_t: The points [s + 1, d] of s steps; the last is the sample z_0.
        z_0: The network's prediction at each of them, scaled as the sample is [s + 1, d]; at the
            last, the sample itself.
    """

    gaussian: int
    start: Gaussians
    timesteps: tuple[int, ...]
    z_t: Tensor
    z_0: Tensor

    @classmethod
    def of(
        cls,
        prior: PriorModel,
        prefix: Prefix,
        *,
        num_steps: int | None = None,
        guidance: float | None = None,
        seed: int = 0,
        sample_id: int = 0,
        gaussian: int | None = None,
    ) -> Self:
        """Sample the prior for one caption, and note every step.

        Args:
            prior: The prior.
            prefix: Text tokens [1, T, w], their mask [1, T] and CLIP's text embedding [1, d].
            num_steps: As `PriorModel.sample` has it, and so has it the others.
            guidance: Scale of the classifier-free guidance.
            seed: Decides the noise, with `sample_id`.
            sample_id: Which of the seed's noise it starts from.
            gaussian: The number of the Gaussian to start from; None leaves it to the caption.
        """
        chosen = prior.choose(*prefix, [gaussian])
        noted = _Notes([], [], [])
        sample = prior.sample(
            *prefix, num_steps=num_steps, guidance=guidance, seed=seed, sample_ids=[sample_id],
            gaussians=chosen, callback=noted,
        )  # fmt: skip
        predicted = scale_per_encoder(torch.cat(noted.z_0), prior.bank.encoder_dims)
        return cls(
            gaussian=int(chosen[0]),
            start=_start(prior, prefix, chosen),
            timesteps=(*(t + 1 for t in noted.timesteps), 0),
            z_t=torch.cat([*noted.z_t, sample]),
            z_0=torch.cat([predicted, sample]),
        )


def _start(prior: PriorModel, prefix: Prefix, chosen: Tensor) -> Gaussians:
    """The Gaussian of one caption: of the bank's, or its own."""
    if isinstance(prior.bank, GaussianBank):
        return prior.bank.gaussians(chosen)
    tokens, attn_mask, text = (part.to(prior.device) for part in prefix)
    return prior.bank.start(tokens, attn_mask, text).cond


@dataclass
class _Notes:
    """A callback of `PriorModel.sample` that keeps what it is called with."""

    timesteps: list[int]
    z_t: list[Tensor]
    z_0: list[Tensor]

    def __call__(self, t: int, z_t: Tensor, z_0: Tensor) -> None:
        self.timesteps.append(t)
        self.z_t.append(z_t)
        self.z_0.append(z_0)
