"""A trained prior: the network together with the bank that it was trained with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from upath import UPath

from corgi_core.config import PriorSettings, settings_from
from corgi_core.diffusion.samplers import noise_for, sampler_named, timesteps_of
from corgi_core.diffusion.schedule import Schedule
from corgi_core.encoders.similarity import scale_per_encoder
from corgi_core.errors import CorgiError
from corgi_core.gaussians.bank import GaussianBank, Gaussians
from corgi_core.io.model_folder import digest_of_tensors, read_model_folder, write_model_folder
from corgi_core.prior.network import PriorNetwork, PriorShape
from corgi_core.prior.stepping import HiddenCaptions, Stepping

KIND = "prior"
CAPTIONS_AT_ONCE = 256
Trajectory = Callable[[int, Tensor], None]


class PriorModel:
    """Turns captions into CLIP image embeddings.

    `encoders` is the text store's `spec`: the CLIP and text encoders that the prior belongs to.
    """

    def __init__(
        self,
        network: PriorNetwork,
        bank: GaussianBank,
        settings: PriorSettings,
        encoders: Mapping[str, Any],
        card: Mapping[str, Any],
    ) -> None:
        self.network = network
        self.bank = bank
        self.settings = settings
        self.encoders = dict(encoders)
        self.card = dict(card)
        self._hidden: HiddenCaptions | None = None

    def compile(self) -> Self:
        """Sample one caption at a time, on a CPU, by a compiled step: for those who answer callers.

        Compiling takes some ten seconds once on a machine. Results agree to 1e-5 of float32's. The
        weights must not change afterwards.
        """
        self._hidden = HiddenCaptions(self.network)
        return self

    @torch.no_grad()
    def sample(
        self,
        tokens: Tensor,
        mask: Tensor,
        text: Tensor,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        sampler: str | None = None,
        seed: int = 0,
        trajectory: Trajectory | None = None,
    ) -> Tensor:
        """Image embeddings ẑ_0 [n, d] for n captions, every block scaled to norm √d_b.

        tokens [n, T, w], mask [n, T] and CLIP text embeddings text [n, d]; `steps`, `guidance`
        and `sampler` default to the model's settings, guidance 1 is none. Row i depends on
        (seed, i) and its own caption only. `trajectory(t, ẑ_0)` sees every prediction, unscaled.
        """
        steps = self.settings.num_steps if steps is None else steps
        guidance = self.settings.guidance if guidance is None else guidance
        sampler = self.settings.sampler if sampler is None else sampler
        self._check(text, guidance)
        timesteps = timesteps_of(sampler, steps)
        sqrt_alphas_cumprod = Schedule.linear().alphas_cumprod.sqrt().tolist()
        chunks = []
        for first in range(0, len(text), CAPTIONS_AT_ONCE):
            rows = slice(first, first + CAPTIONS_AT_ONCE)
            c = self.bank.assign(text[rows])
            shown = torch.zeros(len(c), dtype=torch.bool, device=text.device)
            start = self.bank.gaussians(c)
            prefix = self.network.encode_prefix(
                tokens[rows].float(), mask[rows], text[rows], shown, c
            )
            stepping = Stepping(
                self.network, prefix, c, timesteps, guidance, self._hidden is not None, self._hidden
            )

            def denoiser(
                u_t: Tensor, t: int, stepping: Stepping = stepping, start: Gaussians = start
            ) -> Tensor:
                guess = start.unwhiten(sqrt_alphas_cumprod[t] * u_t)
                z_0 = stepping(guess, t)
                if trajectory is not None:
                    trajectory(t, z_0.clone())
                return start.whiten(z_0)

            noise = noise_for(seed, first, len(c), (steps, self.bank.width)).to(text.device)
            chunks.append(start.unwhiten(sampler_named(sampler)(denoiser, noise, steps)))
        return scale_per_encoder(torch.cat(chunks), self.bank.encoder_dims)

    def _check(self, text: Tensor, guidance: float) -> None:
        if text.shape[-1] != self.bank.width:
            raise CorgiError(
                f"a text embedding is {text.shape[-1]} wide, this prior needs {self.bank.width}",
                "embed the captions with the CLIP encoders that the prior was trained for",
            )
        if not math.isfinite(guidance):
            raise CorgiError(f"guidance {guidance} is not finite", "give a number such as 1 or 2")
        if guidance != 1 and self.settings.cond_dropout == 0:
            raise CorgiError(
                "this prior was trained without text dropout, so it cannot be guided",
                "use guidance 1, or train with cond_dropout above 0",
            )

    def to(self, device: torch.device | str) -> Self:
        """Move the network and the bank to a device, in place."""
        self.network.to(device)
        self.bank.to(device)
        if self._hidden is not None:  # whose prefixes are on the old device
            self._hidden = HiddenCaptions(self.network)
        return self

    def save(self, folder: Path | UPath) -> None:
        """Write the model folder; the bank is inside the weights."""
        config = {
            "shape": asdict(self.network.shape),
            "settings": asdict(self.settings),
            "encoders": self.encoders,
            "bank": self.bank.config,
        }
        write_model_folder(folder, KIND, config, self._tensors(), self.card)

    def _tensors(self) -> dict[str, Tensor]:
        parts = {"network": self.network, "bank": self.bank}
        return {
            f"{part}.{name}": tensor
            for part, module in parts.items()
            for name, tensor in module.state_dict().items()
        }

    @property
    def digest(self) -> str:
        return digest_of_tensors(self._tensors())

    @classmethod
    def load(cls, folder: Path | UPath) -> Self:
        saved = read_model_folder(folder, KIND)
        part = {
            name: {
                key.removeprefix(f"{name}."): value
                for key, value in saved.tensors.items()
                if key.startswith(f"{name}.")
            }
            for name in ("network", "bank")
        }
        network = PriorNetwork(PriorShape(**saved.config["shape"]))
        network.load_state_dict(part["network"])
        bank = GaussianBank.from_state(part["bank"], saved.config["bank"])
        settings = settings_from(PriorSettings, saved.config["settings"])
        return cls(network.eval(), bank, settings, saved.config["encoders"], saved.card)
