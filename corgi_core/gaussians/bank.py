"""The bank of Gaussians N(μᵢ, (κσᵢ)²) from which the shifted diffusion starts.

Its Gaussians own the one change of variables that turns the shifted diffusion into the standard
one: u = (z − μ_c)/(κσ_c). The DALL-E 2 baseline is the bank with μ = 0 and κσ = 1.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from upath import UPath

from corgi_core.encoders.similarity import unit_per_encoder
from corgi_core.errors import CorgiError
from corgi_core.io.files import digest_of
from corgi_core.io.model_folder import digest_of_tensors, read_model_folder, write_model_folder

KIND = "gaussian-bank"
MEANS, EXPECTATION = "means", "expectation"  # the choices of a caption's Gaussian
IMAGES = "images"


class Gaussians(NamedTuple):
    """N(μ_c, V diag((κσ_c)²) Vᵀ), one for each of n captions.

    mean: μ [n, d].
    std: κσ [n, d].
    basis: V [d, d], orthogonal, the same for all; None is the identity, as in the paper.
    """

    mean: Tensor
    std: Tensor
    basis: Tensor | None = None

    def whiten(self, z: Tensor) -> Tensor:
        """u = Vᵀ(z − μ_c)/(κσ_c). z [n, d] → u [n, d]."""
        centred = z - self.mean
        return (centred if self.basis is None else _product(centred, self.basis)) / self.std

    def unwhiten(self, u: Tensor) -> Tensor:
        """z = μ_c + V κσ_c u, the inverse of `whiten`."""
        scaled = self.std * u
        return self.mean + (scaled if self.basis is None else _product(scaled, self.basis.T))

    def of_several(self) -> Gaussians:
        """The same for several rows a caption: mean and std [n, 1, d]."""
        return Gaussians(self.mean.unsqueeze(1), self.std.unsqueeze(1), self.basis)


def _product(x: Tensor, matrix: Tensor) -> Tensor:
    """x [..., d] @ matrix [d, d] in float32: the narrow axes would be lost in bfloat16."""
    with torch.autocast(x.device.type, enabled=False):
        return x.float() @ matrix


class Start(NamedTuple):
    """What the diffusion of n captions starts from.

    c: the captions' Gaussians as the network reads them, indices [n] of long.
    cond: the captions' Gaussians.
    uncond: those that the same captions start from where they are dropped, of the same covariance.
    residual: whether the network predicts z_0 − E[z_0 | z_t] of that Gaussian, instead of z_0.
    """

    c: Tensor
    cond: Gaussians
    uncond: Gaussians
    residual: bool

    def where(self, cond_mask: Tensor) -> Gaussians:
        """Each caption's own Gaussian, or where it is dropped the other. cond_mask [n] of bool."""
        mean = torch.where(cond_mask.unsqueeze(1), self.cond.mean, self.uncond.mean)
        return self.cond._replace(mean=mean)


class GaussianBank(nn.Module):
    """k Gaussians with diagonal covariances.

    Args:
        means: μ [k, d].
        std: κσ [k, d], all positive.
        sizes: how many embeddings each Gaussian was fitted to [k].
        encoder_dims: the widths of the CLIP encoders, which sum to d.
        kappa: the factor κ that `std` contains.
        choice: a caption's Gaussian has the nearest of the "means", or the highest "expectation"
            of the cosine.
        choice_samples: how many samples of each Gaussian estimate the expectation.

    Raises:
        CorgiError: if the shapes do not fit, a standard deviation is not positive, or the choice
            is unknown.
    """

    of = IMAGES  # that the Gaussians are fitted to
    means: Tensor
    std: Tensor
    sizes: Tensor
    _directions: Tensor | None

    def __init__(
        self,
        means: Tensor,
        std: Tensor,
        sizes: Tensor,
        encoder_dims: Sequence[int],
        kappa: float,
        choice: str = MEANS,
        choice_samples: int = 64,
    ) -> None:
        super().__init__()
        if means.shape != std.shape or means.shape[1] != sum(encoder_dims):
            raise CorgiError(
                f"a bank's means {tuple(means.shape)} and std {tuple(std.shape)} "
                f"must both be [k, {sum(encoder_dims)}]",
                "fit the bank again on embeddings of these encoders",
            )
        if not bool((std > 0).all()):
            raise CorgiError(
                "a Gaussian's standard deviation is not positive", "fit the bank again"
            )
        if choice not in (MEANS, EXPECTATION) or choice_samples < 1:
            raise CorgiError(
                f"Gaussians cannot be chosen by {choice!r} with {choice_samples} samples",
                f"set gaussians.choice to {MEANS} or {EXPECTATION}, choice_samples to 1 or more",
            )
        self.register_buffer("means", means.detach().float())
        self.register_buffer("std", std.detach().float())
        self.register_buffer("sizes", sizes.long())
        self.register_buffer("_directions", None, persistent=False)
        self.encoder_dims = tuple(int(b) for b in encoder_dims)
        self.kappa = float(kappa)
        self.choice, self.choice_samples = choice, choice_samples

    @property
    def k(self) -> int:
        """The number of Gaussians."""
        return self.means.shape[0]

    @property
    def width(self) -> int:
        """The width d of the embeddings."""
        return self.means.shape[1]

    @property
    def config(self) -> dict[str, Any]:
        """What `from_state` needs beside the tensors."""
        return {
            "encoder_dims": list(self.encoder_dims), "kappa": self.kappa,
            "choice": self.choice, "choice_samples": self.choice_samples,
        }  # fmt: skip

    @property
    def digest(self) -> str:
        """Names the tensors and how a Gaussian is chosen among them."""
        return digest_of(self.config, digest_of_tensors(self.state_dict()))

    @classmethod
    def standard(cls, encoder_dims: Sequence[int], *, scaled: bool = True) -> Self:
        """N(0, I): with it the shifted diffusion is the DALL-E 2 baseline.

        Our embeddings have coordinates of root mean square 1, as DALL-E 2 scales its own. Without
        that scaling (`scaled` False) the embeddings of each encoder have norm 1 under N(0, I),
        which is a standard deviation of √d_b here.
        """
        widths = torch.tensor(encoder_dims)
        each = torch.ones(len(encoder_dims)) if scaled else widths.float().sqrt()
        std = each.repeat_interleave(widths).unsqueeze(0)
        means = torch.zeros_like(std)
        return cls(means, std, torch.zeros(1), encoder_dims, kappa=1.0)

    def with_kappa(self, kappa: float) -> Self:
        """The same Gaussians, their σ scaled by another κ."""
        return self._with(self.means, self.std * (kappa / self.kappa), kappa)

    def shift_only(self) -> Self:
        """N(μᵢ, I): the first of the two things that set the bank apart from the baseline."""
        return self._with(self.means, torch.ones_like(self.std), kappa=1.0)

    def scale_only(self) -> Self:
        """N(0, (κσ)²): the second. Of one Gaussian, as a caption chooses among several by μ."""
        if self.k > 1:
            raise CorgiError(
                f"without their means a caption cannot choose among {self.k} Gaussians",
                "take the bank of one Gaussian",
            )
        return self._with(torch.zeros_like(self.means), self.std, self.kappa)

    def _with(self, means: Tensor, std: Tensor, kappa: float) -> Self:
        return type(self)(
            means, std, self.sizes, self.encoder_dims, kappa, self.choice, self.choice_samples
        )

    def on(self, device: torch.device) -> Self:
        """The same Gaussians on a device: this bank if it is there, else a copy."""
        return self if self.means.device == device else copy.deepcopy(self).to(device)

    def assign(self, text: Tensor) -> Tensor:
        """c(y) from the caption alone. text [n, d] → [n], long.

        argmaxᵢ cos(μᵢ, f_txt(y)), or argmaxᵢ E_{z∼N(μᵢ, (κσᵢ)²)} cos(z, f_txt(y)). The cosine is
        linear in the text's unit vectors, so its expectation is their inner product with one
        direction for each Gaussian: the mean of its samples' unit vectors.
        """
        if self.k == 1:
            return torch.zeros(len(text), dtype=torch.long, device=text.device)
        if self._directions is None:
            self._directions = self._expected_directions()
        return (unit_per_encoder(text.float(), self.encoder_dims) @ self._directions.T).argmax(
            dim=1
        )

    @torch.no_grad()
    def _expected_directions(self) -> Tensor:
        """[k, d]. All Gaussians share the same noise, so that chance favours none of them."""
        if self.choice == MEANS:
            return unit_per_encoder(self.means, self.encoder_dims)
        noise = torch.randn(
            self.choice_samples, self.width, generator=torch.Generator().manual_seed(0)
        )
        total = torch.zeros_like(self.means)
        for epsilon in noise.to(self.means.device):
            total += unit_per_encoder(self.means + self.std * epsilon, self.encoder_dims)
        return total / self.choice_samples

    def gaussians(self, c: Tensor) -> Gaussians:
        """The Gaussians c [n]."""
        return Gaussians(self.means[c], self.std[c])

    def start(
        self, tokens: Tensor, attn_mask: Tensor, text: Tensor, images: Tensor | None = None
    ) -> Start:
        """Each caption's Gaussian, chosen by text [n, d] alone; a dropped caption keeps it."""
        return self.start_from(self.assign(text))

    def start_from(self, c: Tensor) -> Start:
        """The start of captions whose Gaussians c [n] are given."""
        gaussians = self.gaussians(c)
        return Start(c, gaussians, gaussians, residual=False)

    def save(self, folder: Path | UPath) -> None:
        """Write the bank as a model folder."""
        write_model_folder(folder, KIND, self.config, self.state_dict(), card={})

    @classmethod
    def load(cls, folder: Path | UPath) -> Self:
        """Read a bank's model folder."""
        saved = read_model_folder(folder, KIND)
        return cls.from_state(saved.tensors, saved.config)

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Self:
        """A bank from its state dict and its `config`, which are part of a prior's files too."""
        return cls(
            tensors["means"], tensors["std"], tensors["sizes"], config["encoder_dims"],
            config["kappa"], config["choice"], config["choice_samples"],
        )  # fmt: skip
