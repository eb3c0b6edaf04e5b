"""diffusers' PriorTransformer, sampled as KandinskyPriorPipeline samples it.

Its width is heads · head_dim whatever d is. Its projection of text encodings takes width d only;
where the encodings are already as wide as the transformer it is left out, which costs it nothing.

`python -m benchmarks.prior_systems.diffusers_prior` speaks the protocol of `child`.
"""

from __future__ import annotations

import torch
from diffusers import PriorTransformer, UnCLIPScheduler
from torch import Tensor
from torch.nn import functional as F

from benchmarks.prior_systems.child import serve
from benchmarks.prior_systems.system import TEXT_DROPOUT, Captions, Case, System
from corgi_core.diffusion.schedule import TIMESTEPS, Schedule


class Diffusers(System):
    """One noise sample per caption, as its training scripts do it."""

    noise_samples = 1

    def __init__(self, case: Case) -> None:
        if case.text_width not in (case.dim, case.width):
            raise ValueError(f"text encodings must be {case.dim} or {case.width} wide")
        self.network = PriorTransformer(
            num_attention_heads=case.heads,
            attention_head_dim=case.width // case.heads,
            num_layers=case.layers,
            embedding_dim=case.dim,
            num_embeddings=case.text_tokens,
            encoder_hid_proj_type="linear" if case.text_width == case.dim else None,
        ).to(case.device)
        # Ours have a mean near 0 and deviations near 1; it begins at 0, and would sample zeros.
        torch.nn.init.ones_(self.network.clip_std)
        # as the published Kandinsky priors are configured
        self._scheduler = UnCLIPScheduler(prediction_type="sample", clip_sample_range=5.0)
        self._case = case
        self._schedule = Schedule.linear()

    def sample(self, captions: Captions, steps: int, guidance: float) -> Tensor:
        """The loop of KandinskyPriorPipeline.__call__, after it has encoded the prompts."""
        case, scheduler = self._case, self._scheduler
        tokens, mask, text, _ = captions
        if guidance != 1:
            tokens, mask, text = _with_empty_captions(captions)
        scheduler.set_timesteps(steps, device=case.device)
        latents = torch.randn(captions.image.shape, device=case.device)
        for i, t in enumerate(scheduler.timesteps):
            predicted = self.network(
                torch.cat([latents] * (len(text) // len(latents))),
                timestep=t,
                proj_embedding=text,
                encoder_hidden_states=tokens,
                attention_mask=mask,
            ).predicted_image_embedding
            if guidance != 1:
                uncond, cond = predicted.chunk(2)
                predicted = uncond + guidance * (cond - uncond)
            last = i + 1 == len(scheduler.timesteps)
            latents = scheduler.step(
                predicted,
                timestep=t,
                sample=latents,
                prev_timestep=None if last else scheduler.timesteps[i + 1],
            ).prev_sample
        return self.network.post_process_latents(latents)

    def loss(self, captions: Captions) -> Tensor:
        tokens, mask, text, z_0 = captions
        t = torch.randint(TIMESTEPS, (len(z_0),), device=z_0.device)
        z_t = self._schedule.add_noise(z_0, torch.randn_like(z_0), t)
        dropped = torch.rand(len(z_0), device=z_0.device) < TEXT_DROPOUT
        conditioned = Captions(
            tokens * ~dropped[:, None, None],
            torch.where(dropped.unsqueeze(1), _empty_mask(mask), mask),
            text * ~dropped.unsqueeze(1),
            z_0,
        )
        return F.mse_loss(self.predict(conditioned, z_t, t).float(), z_0)

    def predict(self, captions: Captions, z_t: Tensor, t: Tensor) -> Tensor:
        tokens, mask, text, _ = captions
        output = self.network(
            z_t, t, proj_embedding=text, encoder_hidden_states=tokens, attention_mask=mask
        )
        return output.predicted_image_embedding


def _with_empty_captions(captions: Captions) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, mask and text of n empty captions (here zeros), then of the n captions."""
    tokens, mask, text, _ = captions
    return (
        torch.cat([torch.zeros_like(tokens), tokens]),
        torch.cat([_empty_mask(mask), mask]),
        torch.cat([torch.zeros_like(text), text]),
    )


def _empty_mask(mask: Tensor) -> Tensor:
    """The mask of an empty caption: its start and its end."""
    return (torch.arange(mask.shape[1], device=mask.device) < 2).expand_as(mask)


if __name__ == "__main__":
    serve(Diffusers)
