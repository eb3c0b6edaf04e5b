"""Flow matching beside the diffusion: straight paths from a caption's Gaussian to its image.

Lipman et al. (2023), Liu et al. (2023): z_s = (1 − s) z_0 + s z_1 with z_1 of the caption's
Gaussian, in whitened coordinates u_s = (1 − s) u_0 + s ε, which is the same line. The velocity
dz_s/ds = z_1 − z_0 is integrated from s = 1 to 0. A network no wider than embeddings cannot pass
all noise on, so it predicts z_0, of which the velocity follows; the loss is the velocity's. In
embedding coordinates this weighs directions as equation (4) does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from corgi_core.diffusion.guidance import guided
from corgi_core.diffusion.schedule import TIMESTEPS, respaced, weighted_error
from corgi_core.errors import CorgiError
from corgi_core.gaussians.bank import Gaussians, Start
from corgi_core.prior.model import Callback, Prefix, PriorModel
from corgi_core.prior.network import PriorNetwork
from corgi_core.prior.task import CaptionBatch, PriorTask
from corgi_core.training.randomness import StepRandom

FLOW_SAMPLERS = ("euler", "heun")
LEAST = 0.05  # s in the velocity's error, at least
Velocity = Callable[[Tensor, float], Tensor]
"""dz_s/ds [n, d] of z_s [n, d] and s."""


def denoised(
    predict: Callable[[Tensor, Tensor], Tensor],
    gaussians: Gaussians,
    residual: bool,
    z_s: Tensor,
    s: Tensor,
) -> Tensor:
    """ẑ_0 of points z_s on the paths.

    As in the diffusion, the network reads E[z_0 | z_s] of embeddings of that Gaussian,
    μ + (1 − s) / (s² + (1 − s)²) (z_s − μ), and predicts z_0, or where it predicts a residual the
    difference from that.

    Args:
        predict: The network's output for n captions, of its input [n, M, d] and timesteps [n, M].
        gaussians: Those that the captions start from, for several rows each: mean [n, 1, d].
        residual: Whether the network predicts the difference.
        z_s: M points of each caption [n, M, d].
        s: Where they are on their paths, in (0, 1] [n, M]. The network reads s T − 1 as its t.

    Returns:
        [n, M, d].
    """
    scale = ((1 - s) / (s.square() + (1 - s).square())).unsqueeze(-1)
    shrunk = gaussians.mean + scale * (z_s - gaussians.mean)
    predicted = predict(shrunk, s * TIMESTEPS - 1).float()
    return shrunk + predicted if residual else predicted


def solve_euler(velocity: Velocity, z_1: Tensor, num_steps: int) -> Tensor:
    """z_0 [n, d] by Euler's method in `num_steps` equal steps from s = 1 to 0."""
    z = z_1
    for s, s_next in pairwise(_times(num_steps)):
        z = z + (s_next - s) * velocity(z, s)
    return z


def solve_heun(velocity: Velocity, z_1: Tensor, num_steps: int) -> Tensor:
    """z_0 [n, d] by Heun's method with `num_steps` evaluations of the velocity.

    A step of Heun's takes two, and the last step, whose second would be at s = 0, is Euler's, as in
    Karras et al. (2022). An even number of evaluations leaves one more for Euler's, before it.
    """
    heun = (num_steps - 1) // 2
    z = z_1
    for number, (s, s_next) in enumerate(pairwise(_times(num_steps - heun))):
        v = velocity(z, s)
        if number < heun:
            v = (v + velocity(z + (s_next - s) * v, s_next)) / 2
        z = z + (s_next - s) * v
    return z


def _times(steps: int) -> list[float]:
    """s from 1 to 0 in equal steps."""
    return [1 - step / steps for step in range(steps + 1)]


class FlowPrior(PriorModel):
    """A prior whose network predicts velocities; its samplers are `FLOW_SAMPLERS`."""

    def sample(
        self,
        tokens: Tensor,
        attn_mask: Tensor,
        text: Tensor,
        *,
        sampler: str | None = None,
        **options: Any,
    ) -> Tensor:
        """As `PriorModel.sample`; the first of the samplers is the default."""
        sampler = sampler or FLOW_SAMPLERS[0]
        return super().sample(tokens, attn_mask, text, sampler=sampler, **options)

    def check_steps(self, sampler: str, num_steps: int) -> None:
        """Raise CorgiError for an unknown sampler or an impossible number of steps."""
        if sampler not in FLOW_SAMPLERS:
            raise CorgiError(
                f"there is no sampler {sampler!r} of a flow",
                f"choose one of {', '.join(FLOW_SAMPLERS)}",
            )
        respaced(TIMESTEPS, num_steps)

    def from_noise(
        self,
        noise: Tensor,
        prefix: Prefix,
        start: Start,
        sampler: str,
        guidance: float,
        callback: Callback | None,
    ) -> Tensor:
        """The embeddings [n, d] at s = 0, as `PriorModel.from_noise`."""
        velocity = self.velocity(prefix, start, guidance, callback)
        solve = solve_heun if sampler == "heun" else solve_euler
        return solve(velocity, start.cond.unwhiten(noise[:, 0]), noise.shape[1])

    def velocity(
        self, prefix: Prefix, start: Start, guidance: float, callback: Callback | None
    ) -> Velocity:
        """The guided velocity of captions.

        A dropped caption starts from μ̄ and the same noise: its path is z_s − s (μ − μ̄).
        """
        network, c = self.network, start.c
        difference = start.cond.mean - start.uncond.mean

        def branch(is_cond: bool, gaussians: Gaussians) -> Velocity:
            cond_mask = torch.full_like(c, is_cond, dtype=torch.bool)
            predict = partial(network.denoise, network.encode_prefix(*prefix, cond_mask, c))

            def predicted(z_s: Tensor, s: float) -> Tensor:
                several = gaussians.of_several(), start.residual, z_s.unsqueeze(1)
                at = torch.full((len(z_s), 1), s, device=z_s.device)
                return denoised(predict, *several, at).squeeze(1)

            return predicted

        cond = branch(True, start.cond)
        uncond = branch(False, start.uncond) if guidance != 1 else cond

        def velocity(z_s: Tensor, s: float) -> Tensor:
            z_0 = cond(z_s, s)
            if guidance != 1:
                z_0 = guided(uncond(z_s - s * difference, s), z_0, guidance)
            if callback is not None:
                callback(round(s * TIMESTEPS) - 1, z_s, z_0)
            return (z_s - z_0) / s

        return velocity


class FlowTask(PriorTask):
    """The training of a flow: a prior's captions, network and noise, and the velocity's error."""

    def loss(self, model: nn.Module, batch: CaptionBatch, random: StepRandom) -> dict[str, Tensor]:
        """Mean of ‖(z_1 − z_0) − v̂‖² / d over `noise_samples` pairs (s, z_1) a caption.

        Of v̂ = (z_s − ẑ_0) / s it is ‖z_0 − ẑ_0‖² / s², where s counts as 0.05 at least.
        """
        tokens, attn_mask = self._tokens.tokens_of(batch.tokens)
        text, z_0 = batch.text.float(), batch.image.float().unsqueeze(1)
        samples = self.settings.noise_samples
        bank = self.bank_on(random.device)
        start = bank.start(tokens, attn_mask, text, batch.image)
        s = (random.integers(TIMESTEPS, samples) + 1) / TIMESTEPS
        noise = random.normal(samples, bank.width)
        cond_mask = random.uniform() >= self.settings.cond_dropout
        gaussians = start.where(cond_mask).of_several()

        def predict(shrunk: Tensor, t: Tensor) -> Tensor:
            output: Tensor = model(tokens, attn_mask, text, cond_mask, shrunk, t, start.c)
            return output

        at = s.unsqueeze(-1)
        z_s = (1 - at) * z_0 + at * gaussians.unwhiten(noise)
        predicted = denoised(predict, gaussians, start.residual, z_s, s)
        return {"loss": weighted_error(z_0, predicted, s.clamp(min=LEAST).pow(-2))}

    def prior(self, model: PriorNetwork) -> FlowPrior:
        """The prior of a network of this training, on the network's device."""
        bank = self.bank_on(model.null_text.device)
        return FlowPrior(model, bank, self.settings, self.texts.spec, card={})
