"""A source that is learned with the network: N(μ(y), σ(y)²), as CSFM has it.

CSFM ("Better Source, Better Flow", Kim et al., 2026) trains the source of flow matching end to end
with the flow. Left to itself it collapses: without variance, z_0 follows from z_t at every
timestep. Two terms hold it: a divergence of the variance alone from the data's, which leaves the
mean free, and the alignment of the mean with the target. Here the source is that of the shifted
diffusion, and begins as the one Gaussian that is fitted to all images.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from corgi_core.encoders.similarity import mean_encoder_cosine
from corgi_core.experiments.prior_ablation.beside import TextFeatures, network_in
from corgi_core.gaussians.bank import GaussianBank, Gaussians, Start
from corgi_core.prior.network import PriorNetwork, PriorShape
from corgi_core.prior.task import CaptionBatch, PriorTask
from corgi_core.training.randomness import StepRandom

VARIANCE_WEIGHT, ALIGNMENT_WEIGHT = 5.0, 1.0  # the authors'


class LearnedSource(GaussianBank):
    """A Gaussian for every caption, by a network of one hidden layer.

    μ(y) = μ̄ + σ m(y) and σ(y) = σ exp(s(y) / 2), with μ̄ and σ of the fitted Gaussian, m and s of
    the network. Dropped captions start from μ̄.
    """

    def __init__(self, fitted: GaussianBank, shape: PriorShape) -> None:
        super().__init__(
            fitted.means, fitted.std, fitted.sizes, fitted.encoder_dims, fitted.kappa,
            fitted.choice, fitted.choice_samples,
        )  # fmt: skip
        self.features = TextFeatures(shape)
        last = nn.Linear(shape.width, 2 * shape.embedding_width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.head = nn.Sequential(nn.Linear(self.features.width, shape.width), nn.GELU(), last)

    def moments(self, tokens: Tensor, attn_mask: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """m(y) and s(y), both [n, d]."""
        m, s = self.head(self.features(tokens.float(), attn_mask, text)).chunk(2, dim=1)
        return m, s

    def start(
        self, tokens: Tensor, attn_mask: Tensor, text: Tensor, images: Tensor | None = None
    ) -> Start:
        """Each caption's Gaussian, and that of a dropped caption."""
        m, s = self.moments(tokens, attn_mask, text)
        c = torch.zeros(len(text), dtype=torch.long, device=text.device)
        mean = self.means[0] + self.std[0] * m
        cond = Gaussians(mean, self.std[0] * (s / 2).exp())
        return Start(c, cond, cond._replace(mean=self.means.expand_as(mean)), residual=False)


class SourceNetwork(PriorNetwork):
    """The prior's network, and the source that it learns with."""

    def __init__(
        self, shape: PriorShape, fitted: GaussianBank, checkpoint_activations: bool = False
    ) -> None:
        super().__init__(shape, checkpoint_activations)
        self.source = LearnedSource(fitted, shape)


@dataclass
class SourceTask(PriorTask):
    """The training of a prior together with its source."""

    def build(self) -> SourceNetwork:
        """An untrained network, whose source is the fitted Gaussian."""
        if not isinstance(self.bank, GaussianBank) or self.bank.k != 1:
            raise ValueError("a learned source begins as one fitted Gaussian")
        return SourceNetwork(self.shape(), self.bank, self.settings.checkpoint_activations)

    def bank_in(self, model: nn.Module, device: torch.device) -> GaussianBank:
        """The network's own source."""
        return network_in(model, SourceNetwork).source

    def loss(self, model: nn.Module, batch: CaptionBatch, random: StepRandom) -> dict[str, Tensor]:
        """Equation (4), whose gradient reaches the source, and the two terms that hold it."""
        terms = super().loss(model, batch, random)
        source = network_in(model, SourceNetwork).source
        prefix = *self._tokens.tokens_of(batch.tokens), batch.text.float()
        m, s = source.moments(*prefix)
        mean = source.means[0] + source.std[0] * m
        variance = (s.exp() - s - 1).mean() / 2
        cosine = mean_encoder_cosine(mean, batch.image.float(), self.bank.encoder_dims)
        apart = 1 - cosine.mean()
        loss = terms["loss"] + VARIANCE_WEIGHT * variance + ALIGNMENT_WEIGHT * apart
        return {**terms, "loss": loss, "variance": variance, "alignment": apart}
