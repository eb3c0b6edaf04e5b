"""The bank of Gaussians N(μᵢ, (κσᵢ)²) from which the shifted diffusion starts.

The bank owns the one change of variables that turns the shifted diffusion into the standard one:
u = (z − μ_c)/(κσ_c). The DALL-E 2 baseline is the bank with μ = 0 and κσ = 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from upath import UPath

from corgi_core.encoders.similarity import blockwise_cosine
from corgi_core.errors import CorgiError
from corgi_core.model_folder import digest_of_tensors, read_model_folder, write_model_folder

KIND = "gaussian-bank"


class GaussianBank(nn.Module):
    """k Gaussians with diagonal deviations.

    Buffers: means [k, d]; deviations [k, d], already scaled by κ, all positive. `blocks` are the
    widths of the CLIP encoders, Σ blocks = d. `sizes` [k] counts the points behind each Gaussian.
    """

    means: Tensor
    deviations: Tensor
    sizes: Tensor

    def __init__(
        self, means: Tensor, deviations: Tensor, sizes: Tensor, blocks: Sequence[int], kappa: float
    ) -> None:
        super().__init__()
        if means.shape != deviations.shape or means.shape[1] != sum(blocks):
            raise CorgiError(
                f"a bank's means {tuple(means.shape)} and deviations {tuple(deviations.shape)} "
                f"must both be [k, {sum(blocks)}]",
                "fit the bank again on embeddings of these encoders",
            )
        if not bool((deviations > 0).all()):
            raise CorgiError("a Gaussian's deviation is not positive", "fit the bank again")
        self.register_buffer("means", means.float())
        self.register_buffer("deviations", deviations.float())
        self.register_buffer("sizes", sizes.long())
        self.blocks = tuple(int(b) for b in blocks)
        self.kappa = float(kappa)

    @property
    def k(self) -> int:
        return self.means.shape[0]

    @property
    def width(self) -> int:
        return self.means.shape[1]

    @property
    def config(self) -> dict[str, Any]:
        return {"blocks": list(self.blocks), "kappa": self.kappa}

    @property
    def digest(self) -> str:
        return digest_of_tensors(self.state_dict())

    @classmethod
    def standard(cls, blocks: Sequence[int]) -> Self:
        """N(0, I): with it the shifted diffusion is the DALL-E 2 baseline."""
        width = sum(blocks)
        zeros = torch.zeros(1, width)
        return cls(zeros, torch.ones(1, width), torch.zeros(1), blocks, kappa=1.0)

    def choose(self, text: Tensor) -> Tensor:
        """c(y) = argmaxᵢ cos(μᵢ, f_txt(y)), from the caption alone. text [n, d] → [n], long."""
        if self.k == 1:
            return torch.zeros(len(text), dtype=torch.long, device=text.device)
        return blockwise_cosine(text.unsqueeze(1), self.means, self.blocks).argmax(dim=1)

    def whiten(self, z: Tensor, c: Tensor) -> Tensor:
        """u = (z − μ_c)/(κσ_c). z [n, d], c [n] → u [n, d]."""
        return (z - self.means[c]) / self.deviations[c]

    def unwhiten(self, u: Tensor, c: Tensor) -> Tensor:
        """z = μ_c + κσ_c u, the inverse of `whiten`."""
        return self.means[c] + self.deviations[c] * u

    def save(self, folder: Path | UPath) -> None:
        write_model_folder(folder, KIND, self.config, self.state_dict(), card={})

    @classmethod
    def load(cls, folder: Path | UPath) -> Self:
        saved = read_model_folder(folder, KIND)
        return cls.from_parts(saved.tensors, saved.config)

    @classmethod
    def from_parts(cls, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Self:
        """A bank from its state dict and {"blocks", "kappa"}, as models that hold one keep it."""
        return cls(
            tensors["means"], tensors["deviations"], tensors["sizes"],
            config["blocks"], config["kappa"],
        )  # fmt: skip
