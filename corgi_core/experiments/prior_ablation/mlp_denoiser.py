"""A prior without attention: residual blocks that read the pooled caption, as in RCG.

RCG (Li, Katabi and He, 2023) denoises image representations by a stack of residual blocks, which
take the timestep and the condition as an embedding. Here they take them by adaptive layer norm
(Peebles and Xie, 2023). The caption is its CLIP text embedding and the mean of its tokens, so a
caption's words have no order but what these two know of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from corgi_core.diffusion.guidance import guided
from corgi_core.diffusion.schedule import timestep_features
from corgi_core.encoders.tokens import mean_pooled
from corgi_core.gaussians.caption_conditioned import CAPTIONS
from corgi_core.prior.model import Prefix, PriorModel
from corgi_core.prior.network import PriorShape
from corgi_core.prior.task import PriorTask


class MLPDenoiser(nn.Module):
    """Predicts what `PriorNetwork` predicts, of the same input.

    It has two blocks for each of the transformer's, so wide that both have as many parameters, but
    for biases and positions.

    Args:
        shape: The transformer's sizes; its heads have no meaning here.
    """

    def __init__(self, shape: PriorShape) -> None:
        super().__init__()
        self.shape = shape
        width, blocks = shape.width, 2 * shape.layers
        # A transformer's block has 12 width²; of these the modulations take three a block of ours,
        # and the last norm's two. Each unit of the hidden layers takes two times the width.
        hidden = round((12 * shape.layers - 2 - 3 * blocks) * width / (2 * blocks))
        self.tokens = nn.Sequential(
            nn.LayerNorm(shape.text_width), nn.Linear(shape.text_width, width)
        )
        self.text_embedding = nn.Linear(shape.embedding_width, width)
        self.null_text = nn.Parameter(torch.zeros(width))
        self.timestep = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.noisy = nn.Linear(shape.embedding_width, width)
        self.blocks = nn.ModuleList(_Block(width, hidden) for _ in range(blocks))
        self.norm = _Modulated(width, parts=2)
        self.head = nn.Linear(width, shape.embedding_width)
        self.gaussian = nn.Embedding(shape.gaussians, width)
        nn.init.normal_(self.gaussian.weight, std=0.02)

    def forward(
        self,
        tokens: Tensor,
        attn_mask: Tensor,
        text: Tensor,
        cond_mask: Tensor,
        shrunk: Tensor,
        t: Tensor,
        c: Tensor,
    ) -> Tensor:
        """Predictions for M independent (t, noise) samples a caption, as `PriorNetwork.forward`.

        Args:
            tokens: The text encoder's tokens [n, T, text_width].
            attn_mask: [n, T], False at padding.
            text: CLIP text embeddings [n, d].
            cond_mask: [n], False where the caption is dropped.
            shrunk: The noisy embeddings [n, M, d].
            t: Timesteps [n, M].
            c: Indices of the captions' Gaussians [n].

        Returns:
            [n, M, d].
        """
        caption = self.text_embedding(text) + self.tokens(mean_pooled(tokens, attn_mask))
        caption = torch.where(cond_mask.unsqueeze(1), caption, self.null_text) + self.gaussian(c)
        features = timestep_features(t, self.shape.width).to(self.null_text.dtype)
        cond = caption.unsqueeze(1) + self.timestep(features)
        x = self.noisy(shrunk)
        for block in self.blocks:
            x = block(x, cond)
        normed, _ = self.norm(x, cond)
        output: Tensor = self.head(normed)
        return output


class _Modulated(nn.Module):
    """A layer norm whose shift and scale, and further parts, are linear in the condition."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, parts * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, cond: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """x, cond [..., width] → x modulated, and the further parts."""
        parts = self.modulation(nn.functional.silu(cond)).chunk(self.parts, dim=-1)
        shift, scale, *others = parts
        return self.norm(x) * (1 + scale) + shift, tuple(others)


class _Block(nn.Module):
    """x + gate · MLP(norm(x)); the gate is the condition's and begins at 0."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = _Modulated(width, parts=3)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """x, cond [..., width] → [..., width]."""
        normed, (gate,) = self.norm(x, cond)
        output: Tensor = x + gate * self.mlp(normed)
        return output


class MLPPrior(PriorModel):
    """A prior whose network is an `MLPDenoiser`; every step reads the caption again."""

    def predictor(
        self, prefix: Prefix, c: Tensor, timesteps: Sequence[int], guidance: float
    ) -> Callable[[Tensor, int], Tensor]:
        """The network's output, guided, as `PriorModel.predictor`."""
        n, cond = len(c), torch.ones_like(c, dtype=torch.bool)
        if guidance != 1:
            prefix = tuple(torch.cat([part, part]) for part in prefix)  # type: ignore[assignment]
            c, cond = torch.cat([c, c]), torch.cat([cond, ~cond])

        def predict(shrunk: Tensor, t: int) -> Tensor:
            x = shrunk.repeat(len(c) // len(shrunk), 1).unsqueeze(1)
            timestep = torch.full((len(c), 1), t, device=c.device)
            output: Tensor = self.network(*prefix, cond, x, timestep, c).squeeze(1)
            output = output.to(shrunk.dtype)
            return output if len(c) == n else guided(output[n:], output[:n], guidance)

        return predict


class MLPTask(PriorTask):
    """The training of an `MLPDenoiser`: that of a prior, but for the network."""

    def build(self) -> Any:
        """An untrained network; one that predicts a residual begins at 0."""
        network = MLPDenoiser(self.shape())
        if self.bank.of == CAPTIONS:
            nn.init.zeros_(network.head.weight)
            nn.init.zeros_(network.head.bias)
        return network

    def prior(self, model: Any) -> MLPPrior:
        """The prior of a network of this training, on the network's device."""
        bank = self.bank_on(model.null_text.device)
        return MLPPrior(model, bank, self.settings, self.texts.spec, card={})
