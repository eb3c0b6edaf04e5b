"""A Gaussian for every caption: N(μ(y), κ² Σ), the shift at its limit.

Nothing in equations (1)–(4) needs the means to come from a finite set. Here μ(y) = Aᵀ φ(y) + b is
a linear function of the caption's text features φ(y) = [f_txt(y), the mean of its text tokens], and
Σ = V diag(σ²) Vᵀ the covariance of what it leaves. For an embedding of N(μ, κ² Σ), E[z_0 | z_t] is
μ + √ᾱ_t (z_t − μ). So the network predicts the difference from that: before its training the
samples are those of the Gaussian, and training adds what the data have else. It is ours and not the
paper's; `prior.caption_fit` fits it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from corgi_core.errors import CorgiError
from corgi_core.gaussians.bank import Gaussians, Start
from corgi_core.io.files import digest_of
from corgi_core.io.model_folder import digest_of_tensors

CAPTIONS = "captions"
TENSORS = ("weight", "bias", "mean", "std", "basis")


class CaptionGaussians(nn.Module):
    """One Gaussian for each caption, all of one covariance.

    A caption whose Gaussian is learned from its own image has a residual that is too small. So in
    training μ(y) is the function of the image's fold, to which that fold was not fitted
    (cross-fitting). The folds are no part of a saved model.

    Args:
        weight: A [p, d], for features of width p = d + w, or d where tokens are not read.
        bias: b [d].
        mean: μ̄ [d], of all embeddings: the start of a dropped caption, which must not know μ(y).
        std: κσ [d], all positive.
        basis: V [d, d], orthogonal.
        encoder_dims: the widths of the CLIP encoders, which sum to d.
        kappa: the factor κ that `std` contains.
        folds: weight [K, p, d] and bias [K, d] of each fold, for training.

    Raises:
        CorgiError: if the shapes do not fit, or a standard deviation is not positive.
    """

    of = CAPTIONS  # that the Gaussians are fitted to
    k = 1  # Gaussians that the network tells apart
    weight: Tensor
    bias: Tensor
    mean: Tensor
    std: Tensor
    basis: Tensor
    fold_weights: Tensor | None
    fold_biases: Tensor | None

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        std: Tensor,
        basis: Tensor,
        encoder_dims: Sequence[int],
        kappa: float,
        folds: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__()
        d = sum(encoder_dims)
        vectors = bias, mean, std, *basis
        if weight.shape[1:] != (d,) or any(each.shape != (d,) for each in vectors):
            raise CorgiError(
                f"a Gaussian for every caption of weights {tuple(weight.shape)} does not fit "
                f"embeddings of width {d}",
                "fit it again on embeddings of these encoders",
            )
        if not bool((std > 0).all()):
            raise CorgiError(
                "a caption's standard deviation is not positive",
                "fit it again, on more images than one",
            )
        for name, tensor in zip(TENSORS, (weight, bias, mean, std, basis), strict=True):
            self.register_buffer(name, tensor.detach().float())
        fold_weights, fold_biases = folds or (None, None)
        self.register_buffer("fold_weights", fold_weights, persistent=False)
        self.register_buffer("fold_biases", fold_biases, persistent=False)
        self.encoder_dims = tuple(int(b) for b in encoder_dims)
        self.kappa = float(kappa)

    @property
    def width(self) -> int:
        """The width d of the embeddings."""
        return len(self.bias)

    @property
    def means(self) -> Tensor:
        """μ̄ [1, d], of the one Gaussian that the network tells apart."""
        return self.mean.unsqueeze(0)

    @property
    def config(self) -> dict[str, Any]:
        """What `from_state` needs beside the tensors."""
        return {"encoder_dims": list(self.encoder_dims), "kappa": self.kappa, "of": self.of}

    @property
    def digest(self) -> str:
        """Names the tensors; the folds follow from the same captions."""
        return digest_of(self.config, digest_of_tensors(self.state_dict()))

    def on(self, device: torch.device) -> Self:
        """The same Gaussians on a device: these if they are there, else a copy."""
        return self if self.mean.device == device else copy.deepcopy(self).to(device)

    def start(
        self, tokens: Tensor, attn_mask: Tensor, text: Tensor, images: Tensor | None = None
    ) -> Start:
        """Each caption's Gaussian, and that of a dropped caption.

        Args:
            tokens: the text encoder's tokens [n, T, w].
            attn_mask: [n, T], False at padding.
            text: CLIP text embeddings [n, d].
            images: of training captions, the embeddings of their own images [n, d] as stored:
                they say which fold is left out.
        """
        features = self._features(tokens, attn_mask, text)
        with torch.autocast(text.device.type, enabled=False):
            if images is None or self.fold_weights is None or self.fold_biases is None:
                mean = features @ self.weight + self.bias
            else:
                mean = self._cross_fitted(features, images, self.fold_weights, self.fold_biases)
        c = torch.zeros(len(text), dtype=torch.long, device=text.device)
        cond = Gaussians(mean, self.std.expand_as(mean), self.basis)
        return Start(c, cond, cond._replace(mean=self.mean.expand_as(mean)), residual=True)

    def _features(self, tokens: Tensor, attn_mask: Tensor, text: Tensor) -> Tensor:
        """φ(y) [n, p]; a caption without tokens has a mean of zero."""
        if len(self.weight) == self.width:
            return text.float()
        counted = attn_mask.unsqueeze(-1).float()
        means = (tokens.float() * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)
        return torch.cat([text.float(), means], dim=1)

    @staticmethod
    def _cross_fitted(features: Tensor, images: Tensor, weights: Tensor, biases: Tensor) -> Tensor:
        fold = folds_of(images, len(weights))
        mean = torch.empty(len(features), biases.shape[1], device=features.device)
        for number in range(len(weights)):
            rows = fold == number
            mean[rows] = features[rows] @ weights[number] + biases[number]
        return mean

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Self:
        """From a state dict and the `config`, which are part of a prior's files."""
        weight, bias, mean, std, basis = (tensors[name] for name in TENSORS)
        return cls(weight, bias, mean, std, basis, config["encoder_dims"], config["kappa"])


def folds_of(images: Tensor, folds: int) -> Tensor:
    """Each caption's fold, from its image's embedding: captions of one image are in one fold.

    A fold is a checksum of the embedding's bits as float16, so nobody has to know an image's key.
    Embeddings [n, d] as stored → long [n], on their device.
    """
    return images.half().view(torch.int16).long().sum(dim=-1) % folds
