"""A trained decoder: the network, how it was trained and which CLIP encoders it belongs to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F
from upath import UPath

from corgi_core.decoders.network import DecoderNetwork, DecoderShape
from corgi_core.decoders.noise import T, few_step_solver
from corgi_core.errors import CorgiError
from corgi_core.model_folder import digest_of_tensors, read_model_folder, write_model_folder
from corgi_core.presets import DecoderSettings, settings_from
from corgi_core.progress import report
from corgi_core.sampling import noise_for

KIND = "decoder"
PICTURES_AT_ONCE = 256
LARGEST_SIZE = 4096


class DecoderModel:
    """Turns CLIP image embeddings into pictures.

    `encoders` is the embedding store's `spec`: the CLIP encoders that the decoder belongs to.
    """

    def __init__(
        self,
        network: DecoderNetwork,
        settings: DecoderSettings,
        encoders: Mapping[str, Any],
        card: Mapping[str, Any],
    ) -> None:
        self.network = network
        self.settings = settings
        self.encoders = dict(encoders)
        self.card = dict(card)

    @property
    def width(self) -> int:
        """d, of the embeddings that this decoder takes."""
        return self.network.shape.embedding_width

    @property
    def blocks(self) -> tuple[int, ...]:
        """d_b of the CLIP encoders, which sum to the width."""
        return tuple(self.encoders["blocks"])

    @torch.no_grad()
    def decode(
        self,
        embeddings: Tensor,
        steps: int | None = None,
        guidance: float | None = None,
        seed: int = 0,
        size: int | None = None,
    ) -> Tensor:
        """Pictures, float32 [n, 3, size, size] in [0, 1], of embeddings [n, d].

        `steps` and `guidance` default to the model's settings (guidance 1 is none), `size` to its
        own; another one is interpolated. Picture i depends on (seed, i) and its embedding only.
        Raises CorgiError for a wrong width and for impossible steps, guidance or size.
        """
        steps = self.settings.sampling_steps if steps is None else steps
        guidance = self.settings.guidance if guidance is None else guidance
        size = self.settings.image_size if size is None else size
        self._check(embeddings, steps, guidance, size)
        pieces = [embeddings.new_empty((0, 3, size, size), dtype=torch.float32)]
        for first in range(0, len(embeddings), PICTURES_AT_ONCE):
            z = embeddings[first : first + PICTURES_AT_ONCE].float()
            noise = noise_for(seed, first, len(z), (self.network.shape.components,))
            x_0 = self._denoise(noise.to(z.device), z, steps, guidance)
            pictures = self.network.components.pictures(x_0).clamp(-1, 1)
            pieces.append(_resized((pictures + 1) / 2, size))
            report("decoding", first + len(z), len(embeddings))
        return torch.cat(pieces)

    def _denoise(self, x: Tensor, z: Tensor, steps: int, guidance: float) -> Tensor:
        """From pure noise x_T to x_0, both [n, k]."""
        solver = few_step_solver(self.settings.noise_shift, steps)
        for t in solver.timesteps:
            (x,) = solver.step(self._predict(x, t, z, guidance), t, x, return_dict=False)
        return x

    def _predict(self, x_t: Tensor, t: Tensor, z: Tensor, guidance: float) -> Tensor:
        """x̂_0, by classifier-free guidance unless guidance is 1."""
        timesteps = t.to(x_t.device).expand(len(x_t))
        shown = torch.zeros(len(x_t), dtype=torch.bool, device=x_t.device)
        x_0: Tensor = self.network(x_t, timesteps, z, shown)
        if guidance != 1:
            unguided = self.network(x_t, timesteps, z, ~shown)
            x_0 = unguided + guidance * (x_0 - unguided)
        return x_0

    def _check(self, embeddings: Tensor, steps: int, guidance: float, size: int) -> None:
        if embeddings.ndim != 2 or embeddings.shape[1] != self.width:
            raise CorgiError(
                f"the embeddings have shape {list(embeddings.shape)}, "
                f"this decoder needs [n, {self.width}]",
                "embed with the CLIP encoders that the decoder was trained for",
            )
        if not 1 <= steps <= T:
            raise CorgiError(f"{steps} decoder steps are impossible", f"give 1 to {T}")
        if not math.isfinite(guidance):
            raise CorgiError(f"guidance {guidance} is not finite", "give a number such as 1 or 2")
        if guidance != 1 and self.settings.embedding_dropout == 0:
            raise CorgiError(
                "this decoder was trained without embedding dropout, so it cannot be guided",
                "use guidance 1, or train with embedding_dropout above 0",
            )
        if not 1 <= size <= LARGEST_SIZE:
            raise CorgiError(
                f"pictures of {size} pixels are impossible", f"give 1 to {LARGEST_SIZE}"
            )

    def save(self, folder: Path | UPath) -> None:
        """Write the model folder."""
        config = {
            "shape": asdict(self.network.shape),
            "settings": asdict(self.settings),
            "encoders": self.encoders,
        }
        write_model_folder(folder, KIND, config, self.network.state_dict(), self.card)

    @property
    def digest(self) -> str:
        return digest_of_tensors(self.network.state_dict())

    @classmethod
    def load(cls, folder: Path | UPath) -> Self:
        """Read a model folder; a CorgiError where its parts do not fit each other."""
        saved = read_model_folder(folder, KIND)
        encoders = saved.config["encoders"]
        shape = settings_from(DecoderShape, saved.config["shape"])
        if sum(encoders["blocks"]) != shape.embedding_width:
            raise CorgiError(
                f"{folder} holds a decoder for width {shape.embedding_width}, but its encoders' "
                f"blocks are {encoders['blocks']}",
                "materialise the decoder again",
            )
        network = DecoderNetwork(shape)
        network.load_state_dict(saved.tensors)
        settings = settings_from(DecoderSettings, saved.config["settings"])
        return cls(network.eval(), settings, encoders, saved.card)


def _resized(pictures: Tensor, size: int) -> Tensor:
    if pictures.shape[-1] == size:
        return pictures
    resized = F.interpolate(pictures, size=(size, size), mode="bicubic", antialias=True)
    return resized.clamp(0, 1)
