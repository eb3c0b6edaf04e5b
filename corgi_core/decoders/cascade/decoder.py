"""The cascade decoder: a small picture is drawn, then a larger one from it, and so on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from corgi_core.config import CascadeSettings, settings_from
from corgi_core.decoders.cascade.condition import larger, noised
from corgi_core.decoders.cascade.network import CascadeNetwork, CascadeShape
from corgi_core.decoders.cascade.prediction import predicted_start
from corgi_core.decoders.cascade.tiles import in_tiles
from corgi_core.decoders.decoder import Decoder, Drawing, Text
from corgi_core.decoders.noise import T, few_step_solver
from corgi_core.diffusion.samplers import noise_for
from corgi_core.training.randomness import seed_of

PIXELS_AT_ONCE = 2**18  # of the pictures that are drawn together, one at least: memory


class CascadeDecoder(Decoder):
    """Draws pictures stage by stage, each in a few steps of DPM-Solver++."""

    most_steps: ClassVar[int] = T

    network: CascadeNetwork
    settings: CascadeSettings

    @classmethod
    def build(cls, shape: Mapping[str, Any]) -> nn.Module:
        return CascadeNetwork(settings_from(CascadeShape, shape))

    @property
    def reads_text(self) -> bool:
        return self.network.shape.text_width is not None

    def draw(self, z: Tensor, text: Text | None, drawing: Drawing) -> Tensor:
        """Without text, a decoder that reads text goes by the embeddings alone."""
        at_once = max(1, PIXELS_AT_ONCE // self.settings.image_size**2)
        chunks = []
        for first in range(0, len(z), at_once):
            rows = slice(first, first + at_once)
            words = None if text is None else Text(text.tokens[rows], text.mask[rows])
            these, picture = replace(drawing, first=drawing.first + first), None
            for number in range(len(self.settings.stages)):
                picture = self._drawn(number, picture, z[rows], words, these)
            assert picture is not None
            chunks.append((picture + 1) / 2)
        return torch.cat(chunks)

    def _drawn(
        self, number: int, low: Tensor | None, z: Tensor, text: Text | None, drawing: Drawing
    ) -> Tensor:
        """Stage `number`'s pictures [n, 3, s, s] in −1 … 1, from those of the stage before."""
        settings, stage = self.settings, self.settings.stages[number]

        def fresh(what: str, size: int) -> Tensor:
            seed = seed_of(what, drawing.seed, number)
            return noise_for(seed, drawing.first, len(z), (3, size, size)).to(z.device)

        level = z.new_full((len(z),), settings.sampling_noise)
        beside = []
        if low is not None:
            beside = [larger(noised(low, level, fresh("condition", low.shape[-1])), stage.size)]
        x, solver = fresh("picture", stage.size), few_step_solver(stage.noise_shift, drawing.steps)
        alpha_bar, white = solver.alphas_cumprod.to(z.device), self.network.white(z)
        for t in solver.timesteps.to(z.device):
            predict = partial(
                self._guided, number, t.expand(len(z)), level, white, text, drawing.guidance
            )
            inputs = torch.cat([x, *beside], dim=1)
            predicted = in_tiles(predict, inputs, settings.tile, settings.overlap)
            x_0 = predicted_start(settings.prediction, x, predicted, alpha_bar[t])
            (x,) = solver.step(x_0.clamp(-1, 1), t, x, return_dict=False)
        return x.clamp(-1, 1)

    def _guided(
        self,
        number: int,
        t: Tensor,
        level: Tensor,
        white: Tensor,
        text: Text | None,
        guidance: float,
        inputs: Tensor,
    ) -> Tensor:
        """The stage's prediction, by classifier-free guidance unless guidance is 1."""
        stage = self.network.stages[number]
        shown = torch.zeros(len(t), dtype=torch.bool, device=t.device)
        predicted: Tensor = stage(inputs, t, level, white, shown, text)
        if guidance != 1:
            unguided = stage(inputs, t, level, white, ~shown)
            predicted = unguided + guidance * (predicted - unguided)
        return predicted
