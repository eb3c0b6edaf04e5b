"""How near a prior's predictions come to the true embedding on the way from noise to the sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from corgi_core.encoders.similarity import cosine_by_encoder


class CosineByTimestep:
    """A callback of `PriorModel.sample` that compares every prediction ẑ_0 with the true z_0.

    Args:
        true: The captions' true embeddings [n, d], in the order in which they are sampled for.
        encoder_dims: Widths of the encoders, which sum to d.
    """

    def __init__(self, true: Tensor, encoder_dims: Sequence[int]) -> None:
        self._true, self._encoder_dims = true, tuple(encoder_dims)
        self._cosines: dict[int, list[Tensor]] = {}

    def __call__(self, t: int, z_t: Tensor, z_0: Tensor) -> None:
        """Note the cosines of some captions' predictions [b, d] at the timestep t."""
        cosines = self._cosines.setdefault(t, [])
        first = sum(map(len, cosines))
        true = self._true[first : first + len(z_0)].to(z_0)
        cosines.append(cosine_by_encoder(z_0, true, self._encoder_dims).double().cpu())

    @property
    def by_caption(self) -> dict[int, Tensor]:
        """The cosines [n, B] of each caption under each encoder, by timestep, from noise on."""
        return {t: torch.cat(self._cosines[t]) for t in sorted(self._cosines, reverse=True)}

    @property
    def by_encoder(self) -> dict[int, list[float]]:
        """The mean cosine under each encoder, by timestep, from noise (the largest t) on."""
        return {t: cosines.mean(dim=0).tolist() for t, cosines in self.by_caption.items()}

    @property
    def averaged(self) -> dict[int, float]:
        """The same, averaged over the encoders."""
        return {t: sum(cosines) / len(cosines) for t, cosines in self.by_encoder.items()}
