"""A trained prior: the network together with the bank that it was trained with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from upath import UPath

from corgi_core.config import PriorSettings, settings_from
from corgi_core.devices import device_of, inference
from corgi_core.diffusion.guidance import guided
from corgi_core.diffusion.samplers import noise_for, sampler_named, timesteps_of
from corgi_core.diffusion.schedule import Schedule
from corgi_core.encoders.similarity import scale_per_encoder
from corgi_core.errors import CorgiError
from corgi_core.gaussians.bank import GaussianBank, Start
from corgi_core.gaussians.caption_conditioned import CAPTIONS, CaptionGaussians
from corgi_core.io.model_folder import digest_of_model, read_model_folder, write_model_folder
from corgi_core.out_of_memory import out_of_memory_explained
from corgi_core.prior.affine_map import AffineMap
from corgi_core.prior.cached_denoiser import CachedDenoiser, UncondPrefixes
from corgi_core.prior.network import PriorNetwork, PriorShape

KIND = "prior"
CAPTIONS_AT_ONCE = 256
LESS_MEMORY = (
    "sample for fewer captions or in fewer steps at once, end what else uses that memory, or "
    "sample on the CPU"
)
Prefix = tuple[Tensor, Tensor, Tensor]
"""Captions as the network reads them: tokens [n, T, w], attn_mask [n, T], text [n, d]."""
Callback = Callable[[int, Tensor, Tensor], None]
"""f(t, z_t [n, d], ẑ_0 [n, d]), called after every prediction."""


class PriorModel:
    """Turns captions into CLIP image embeddings.

    `encoders` is the text store's `spec`: the CLIP and text encoders that the prior belongs to.
    `precision` is that of sampling on a GPU. `matching` is an affine map of what is sampled by the
    settings' own steps, guidance and sampler: it was fitted to that.
    """

    precision: str = "auto"

    def __init__(
        self,
        network: PriorNetwork,
        bank: GaussianBank | CaptionGaussians,
        settings: PriorSettings,
        encoders: Mapping[str, Any],
        card: Mapping[str, Any],
        matching: AffineMap | None = None,
    ) -> None:
        self.network = network
        self.bank = bank.on(self.device)
        self.settings = settings
        self.encoders = dict(encoders)
        self.card = dict(card)
        self.matching = matching
        self._uncond: UncondPrefixes | None = None

    def compile(self) -> Self:
        """From now on, sample up to 32 captions at once on a CPU by a compiled step: for servers.

        Compiling takes ten to twenty seconds, once on a machine. Samples agree with the eager ones
        to 1e-5 in float32. The weights must not change afterwards.
        """
        self._uncond = UncondPrefixes(self.network)
        return self

    @torch.no_grad()
    def sample(
        self,
        tokens: Tensor,
        attn_mask: Tensor,
        text: Tensor,
        *,
        num_steps: int | None = None,
        guidance: float | None = None,
        sampler: str | None = None,
        seed: int = 0,
        sample_ids: Sequence[int] | None = None,
        callback: Callback | None = None,
        gaussians: Tensor | None = None,
    ) -> Tensor:
        """Image embeddings for n captions.

        Args:
            tokens: the text encoder's tokens [n, T, w].
            attn_mask: [n, T], False at padding.
            text: CLIP text embeddings [n, d].
            num_steps: of the sampler; the model's settings by default.
            guidance: scale of the classifier-free guidance, 1 is none; the settings' by default.
            sampler: one of `SAMPLERS`; the settings' by default.
            seed: row i of the result depends on (seed, sample_ids[i]) and its own caption only.
            sample_ids: which of the seed's noise each row starts from; 0 … n − 1 by default.
            callback: called with every timestep, z_t and prediction ẑ_0, before the final scaling.
            gaussians: which Gaussian each caption starts from, long [n], as `choose` returns them;
                by default each caption chooses.

        Returns:
            Embeddings ẑ_0 [n, d], scaled to norm √d_b for every encoder of width d_b.

        Raises:
            CorgiError: for embeddings of another width, guidance that is not finite or that the
                prior was not trained for, an unknown sampler, an impossible number of steps, or too
                little memory.
        """
        num_steps = self.settings.num_steps if num_steps is None else num_steps
        guidance = self.settings.guidance if guidance is None else guidance
        sampler = self.settings.sampler if sampler is None else sampler
        sample_ids = range(len(text)) if sample_ids is None else sample_ids
        self._check(text, guidance)
        self.check_steps(sampler, num_steps)
        device = self.device
        text = text.to(device)
        chunks = []
        doing = f"sampling embeddings of {len(text)} captions by a prior"
        with inference(device, self.precision), out_of_memory_explained(doing, LESS_MEMORY):
            for first in range(0, len(text), CAPTIONS_AT_ONCE):
                rows = slice(first, first + CAPTIONS_AT_ONCE)
                prefix = tokens[rows].to(device).float(), attn_mask[rows].to(device), text[rows]
                noise = noise_for(seed, sample_ids[rows], (num_steps, self.bank.width)).to(device)
                start = self.bank.start(*prefix)
                if gaussians is not None and isinstance(self.bank, GaussianBank):
                    start = self.bank.start_from(gaussians[rows].to(device))
                chunks.append(self.from_noise(noise, prefix, start, sampler, guidance, callback))
        z = scale_per_encoder(torch.cat(chunks), self.bank.encoder_dims)
        own = self.settings.num_steps, self.settings.guidance, self.settings.sampler
        if self.matching is None or (num_steps, guidance, sampler) != own:
            return z
        return scale_per_encoder(self.matching(z), self.bank.encoder_dims)

    @torch.no_grad()
    def choose(
        self,
        tokens: Tensor,
        attn_mask: Tensor,
        text: Tensor,
        given: Sequence[int | None] | None = None,
    ) -> Tensor:
        """The Gaussians that n captions start from, long [n] on the prior's device.

        Args:
            tokens: the text encoder's tokens [n, T, w].
            attn_mask: [n, T], False at padding.
            text: CLIP text embeddings [n, d].
            given: a caption's Gaussian where it is not None; the caption chooses otherwise.

        Raises:
            CorgiError: if there is no such Gaussian.
        """
        prefix = (tokens.to(self.device), attn_mask.to(self.device), text.to(self.device))
        chosen = self.bank.start(*prefix).c
        for row, number in enumerate(given or ()):
            if number is None:
                continue
            if not 0 <= number < self.bank.k:
                raise CorgiError(
                    f"there is no Gaussian {number}: this prior has {self.bank.k}, from 0",
                    f"choose one of 0 to {self.bank.k - 1}, or let the caption choose",
                )
            chosen[row] = number
        return chosen

    def check_steps(self, sampler: str, num_steps: int) -> None:
        """Raise CorgiError for an unknown sampler or an impossible number of steps."""
        timesteps_of(sampler, num_steps)

    def from_noise(
        self,
        noise: Tensor,
        prefix: Prefix,
        start: Start,
        sampler: str,
        guidance: float,
        callback: Callback | None,
    ) -> Tensor:
        """The embeddings [n, d] of captions, as the sampler leaves them.

        Args:
            noise: Standard normal [n, num_steps, d], whose first step is z_T whitened.
            prefix: The captions.
            start: Their Gaussians.
            sampler: One of `SAMPLERS`.
            guidance: Scale of the guidance; 1 is none.
            callback: Called with every timestep, z_t and prediction ẑ_0.
        """
        num_steps, gaussians = noise.shape[1], start.cond
        denoiser = self.denoiser(prefix, start, timesteps_of(sampler, num_steps), guidance)

        def whitened(u_t: Tensor, t: int) -> Tensor:
            z_0 = denoiser(u_t, t)
            if callback is not None:
                callback(t, gaussians.unwhiten(u_t), z_0.clone())
            return gaussians.whiten(z_0)

        return gaussians.unwhiten(sampler_named(sampler)(whitened, noise, num_steps))

    def denoiser(
        self, prefix: Prefix, start: Start, timesteps: Sequence[int], guidance: float
    ) -> Callable[[Tensor, int], Tensor]:
        """ẑ_0(u_t, t) of captions, guided, at any of the timesteps.

        Where dropped captions start from another Gaussian μ̄, their branch of the guidance reads
        the same noise and the same z_0 in that one's diffusion: of z_t − μ = √ᾱ_t (z_0 − μ) + n it
        makes z_t − μ̄ = √ᾱ_t (z_0 − μ̄) + n. So it does not learn the caption from μ.
        """
        difference = start.cond.mean - start.uncond.mean
        predict = self.predictor(prefix, start.c, timesteps, guidance)
        sqrt_alphas_cumprod = Schedule.linear().alphas_cumprod.sqrt().tolist()
        apart = start.uncond is not start.cond and guidance != 1

        def denoiser(u_t: Tensor, t: int) -> Tensor:
            root = sqrt_alphas_cumprod[t]
            shrunk = start.cond.unwhiten(root * u_t)
            if apart:
                shrunk = torch.cat([shrunk, shrunk - (1 - root**2) * difference])
            z_0 = predict(shrunk, t)
            if not start.residual:
                return z_0
            if not apart:
                return z_0 + shrunk
            cond, uncond = shrunk.chunk(2)
            return z_0 + guided(uncond, cond, guidance)

        return denoiser

    def predictor(
        self, prefix: Prefix, c: Tensor, timesteps: Sequence[int], guidance: float
    ) -> Callable[[Tensor, int], Tensor]:
        """The network's output for captions with Gaussians c [n], guided, at any of the timesteps.

        It is a function of the network's input `shrunk` and t. `shrunk` is [n, d], or [2 n, d]
        where both branches of the guidance read different ones, the conditional first.
        """
        cond_mask = torch.ones(len(c), dtype=torch.bool, device=c.device)
        return CachedDenoiser(
            self.network, self.network.encode_prefix(*prefix, cond_mask, c), c, timesteps, guidance,
            compiled=self._uncond is not None, uncond=self._uncond,
        )  # fmt: skip

    def _check(self, text: Tensor, guidance: float) -> None:
        if text.shape[-1] != self.bank.width:
            raise CorgiError(
                f"a text embedding is {text.shape[-1]} wide, this prior needs {self.bank.width}",
                "embed the captions with the CLIP encoders that the prior was trained on",
            )
        if not math.isfinite(guidance):
            raise CorgiError(f"guidance {guidance} is not finite", "give a number such as 1 or 2")
        if guidance != 1 and self.settings.cond_dropout == 0:
            raise CorgiError(
                "this prior was trained without text dropout, so it cannot be guided",
                "use guidance 1, or train with cond_dropout above 0",
            )

    @property
    def device(self) -> torch.device:
        """Where the network and the bank are."""
        return device_of(self.network)

    def to(self, device: torch.device | str) -> Self:
        """Move the network and the bank to a device, in place."""
        self.network.to(device)
        self.bank.to(device)
        if self.matching is not None:
            self.matching = self.matching.to(device)
        if self._uncond is not None:  # whose prefixes are on the old device
            self._uncond = UncondPrefixes(self.network)
        return self

    def save(self, folder: Path | UPath) -> None:
        """Write the model folder; the bank is inside the weights."""
        write_model_folder(folder, KIND, self._config(), self._tensors(), self.card)

    def _config(self) -> dict[str, Any]:
        return {
            "shape": asdict(self.network.shape),
            "settings": asdict(self.settings),
            "encoders": self.encoders,
            "bank": self.bank.config,
        }

    def _tensors(self) -> dict[str, Tensor]:
        tensors = tensors_of(self.network, self.bank)
        return tensors if self.matching is None else tensors | self.matching.tensors

    @property
    def digest(self) -> str:
        """Names what is sampled: the network, the bank and the settings of sampling."""
        return digest_of_model(KIND, self._config(), self._tensors())

    @classmethod
    def load(cls, folder: Path | UPath) -> Self:
        """The prior of a folder that `save` wrote."""
        saved = read_model_folder(folder, KIND)
        network = PriorNetwork(PriorShape(**saved.config["shape"]))
        network.load_state_dict(part_of(saved.tensors, "network"))
        kind = CaptionGaussians if saved.config["bank"].get("of") == CAPTIONS else GaussianBank
        bank = kind.from_state(part_of(saved.tensors, "bank"), saved.config["bank"])
        settings = settings_from(PriorSettings, saved.config["settings"])
        matching = AffineMap.of_tensors(saved.tensors)
        return cls(network.eval(), bank, settings, saved.config["encoders"], saved.card, matching)


def tensors_of(network: PriorNetwork, bank: GaussianBank | CaptionGaussians) -> dict[str, Tensor]:
    """The tensors of a prior's folder, as "network.NAME" and "bank.NAME"."""
    parts = {"network": network.state_dict(), "bank": bank.state_dict()}
    return {f"{part}.{name}": each for part, named in parts.items() for name, each in named.items()}


def part_of(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors of a part, "network" or "bank", by their names there."""
    prefix = f"{part}."
    return {
        name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)
    }
