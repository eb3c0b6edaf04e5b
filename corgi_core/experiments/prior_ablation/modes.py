"""Many modes a caption: p(c | y) is learned and sampled, instead of the argmax of a cosine.

The paper gives a caption the Gaussian whose mean is nearest to its text, in training and in
sampling alike, so most targets start far from their own cluster. MM-FM ("Flow Matching for
Multimodal Distributions", CVPR 2026) couples every target to the mode that it is nearest to. Then a
mode has to be chosen when sampling: by p(c | y), here a linear softmax of the caption's text
features that is learned beside the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from corgi_core.diffusion.samplers import noise_for
from corgi_core.experiments.prior_ablation.beside import TextFeatures, network_in
from corgi_core.gaussians.bank import GaussianBank, Start
from corgi_core.prior.model import PriorModel
from corgi_core.prior.network import PriorNetwork, PriorShape
from corgi_core.prior.task import CaptionBatch, PriorTask
from corgi_core.training.randomness import StepRandom, seed_of


class CoupledBank(GaussianBank):
    """A bank whose training captions start from the mode that is nearest to their image."""

    def start(
        self, tokens: Tensor, attn_mask: Tensor, text: Tensor, images: Tensor | None = None
    ) -> Start:
        """The nearest Gaussian to image embeddings [n, d] where they are given, else to the text.

        Nearest is by cosine, as the clusters were fitted.
        """
        return self.start_from(self.assign(text if images is None else images.float()))


class ModesNetwork(PriorNetwork):
    """The prior's network, and beside it the logits of p(c | y)."""

    def __init__(self, shape: PriorShape, checkpoint_activations: bool = False) -> None:
        super().__init__(shape, checkpoint_activations)
        if shape.gaussians == 1:
            raise ValueError("of one Gaussian there is nothing to choose")
        self.features = TextFeatures(shape)
        self.modes = nn.Linear(self.features.width, shape.gaussians)
        nn.init.zeros_(self.modes.weight)
        nn.init.zeros_(self.modes.bias)

    def mode_logits(self, tokens: Tensor, attn_mask: Tensor, text: Tensor) -> Tensor:
        """Of captions: tokens [n, T, w], attn_mask [n, T], text [n, d] → [n, k]."""
        logits: Tensor = self.modes(self.features(tokens, attn_mask, text))
        return logits


class ModesPrior(PriorModel):
    """A prior that samples a caption's Gaussian from p(c | y)."""

    def sample(
        self,
        tokens: Tensor,
        attn_mask: Tensor,
        text: Tensor,
        *,
        seed: int = 0,
        sample_ids: Sequence[int] | None = None,
        gaussians: Tensor | None = None,
        **settings: Any,
    ) -> Tensor:
        """As `PriorModel.sample`; the Gaussian too depends on (seed, sample_ids[i]) alone."""
        ids = range(len(text)) if sample_ids is None else sample_ids
        if gaussians is None:
            gaussians = self.sampled_modes(tokens, attn_mask, text, seed, ids)
        return super().sample(
            tokens, attn_mask, text, seed=seed, sample_ids=ids, gaussians=gaussians, **settings
        )

    @torch.no_grad()
    def sampled_modes(
        self, tokens: Tensor, attn_mask: Tensor, text: Tensor, seed: int, ids: Sequence[int]
    ) -> Tensor:
        """c ~ p(c | y), long [n]: the largest of the logits with Gumbel noise (Gumbel, 1954)."""
        network = network_in(self.network, ModesNetwork)
        prefix = (each.to(self.device) for each in (tokens.float(), attn_mask, text))
        logits = network.mode_logits(*prefix)
        normal = noise_for(seed_of("modes", seed), ids, (self.bank.k,)).to(logits.device)
        uniform = torch.special.ndtr(normal.double()).clamp(1e-12, 1 - 1e-12)
        chosen: Tensor = (logits - (-uniform.log()).log()).argmax(dim=1)
        return chosen


@dataclass
class ModesTask(PriorTask):
    """The training of a prior with its p(c | y), whose cross-entropy is added to the loss."""

    def bank_in(self, model: nn.Module, device: torch.device) -> CoupledBank:
        """The task's bank, coupled."""
        bank = self.bank_on(device)
        return CoupledBank.from_state(bank.state_dict(), bank.config)

    def build(self) -> ModesNetwork:
        """An untrained network; every mode is equally likely."""
        return ModesNetwork(self.shape(), self.settings.checkpoint_activations)

    def loss(self, model: nn.Module, batch: CaptionBatch, random: StepRandom) -> dict[str, Tensor]:
        """Equation (4) from the nearest modes, and −log p(c | y) of them."""
        terms = super().loss(model, batch, random)
        network = network_in(model, ModesNetwork)
        bank = self.bank_in(model, random.device)
        prefix = *self._tokens.tokens_of(batch.tokens), batch.text.float()
        nearest = bank.start(*prefix, batch.image).c
        surprise = F.cross_entropy(network.mode_logits(*prefix), nearest)
        return {**terms, "loss": terms["loss"] + surprise, "modes": surprise}

    def prior(self, model: PriorNetwork) -> ModesPrior:
        """The prior of a network of this training."""
        bank = self.bank_in(model, model.null_text.device)
        return ModesPrior(model, bank, self.settings, self.texts.spec, card={})
