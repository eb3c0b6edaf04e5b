"""A sampling step in one position: whatever does not depend on z_t is computed beforehand.

The caption's keys and values are, and the embeddings of all timesteps; so a step runs the noisy
embedding's position alone, for both branches of the guidance at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from corgi_core.diffusion.guidance import guided
from corgi_core.prior.network import Prefix, PriorNetwork


class Stepping:
    """ẑ_0(z_t, t) of given captions, at the given timesteps.

    `prefix` is the captions' [n], c [n] their Gaussians. With guidance w ≠ 1 (Ho and Salimans,
    2022) the prediction is ẑ_0(∅) + w (ẑ_0(y) − ẑ_0(∅)), over all dimensions. `compiled`: where
    `CompiledStep` serves the captions, it does. `hidden` keeps ∅'s prefixes from one time to the
    next.
    """

    def __init__(
        self,
        network: PriorNetwork,
        prefix: Prefix,
        c: Tensor,
        timesteps: Sequence[int],
        guidance: float = 1.0,
        compiled: bool = False,
        hidden: HiddenCaptions | None = None,
    ) -> None:
        self._network, self._guidance = network, guidance
        if guidance != 1:
            prefix = (hidden or HiddenCaptions(network)).after(prefix, c)
        # Keys and values of [prefix · noisy embedding]; the last changes.
        self._kept = [F.pad(there, (0, 0, 0, 1)) for there in prefix.keys_and_values]
        seen = F.pad(prefix.visible, (0, 1), value=True)
        # Added to the scores: a mask of booleans would be turned into this at every call.
        self._unseen = torch.zeros_like(seen, dtype=self._kept[0].dtype).masked_fill(
            ~seen, -torch.inf
        )[:, None, None, :]
        self._through: Callable[[Tensor, Tensor], Tensor] = self._eager
        if compiled:
            # numba takes a moment to load, and is for those who ask for it.
            from corgi_core.prior.compiled_step import CompiledStep

            if CompiledStep.serves(network, self._kept[0]):
                self._through = CompiledStep(network, self._kept, seen, guidance)
        times = torch.tensor(timesteps, device=c.device)
        self._timesteps = dict(zip(timesteps, network.embed_timestep(times), strict=True))

    def __call__(self, guess: Tensor, t: int) -> Tensor:
        """ẑ_0 [n, d] of the network's guess [n, d] at t, one of the timesteps."""
        return self._through(guess, self._timesteps[t])

    @torch.inference_mode()
    def _eager(self, guess: Tensor, timestep: Tensor) -> Tensor:
        x = self._network.noisy(guess) + timestep
        x = x.repeat(len(self._unseen) // len(x), 1).unsqueeze(1)
        for block, kept in zip(self._network.layers, self._kept, strict=True):
            queries, kept[..., -1:, :] = block.queries_keys_values(x)
            found = F.scaled_dot_product_attention(
                queries, kept[0], kept[1], attn_mask=self._unseen
            )
            x = block(x, found)
        z_0 = self._network.project(x.squeeze(1))
        if self._guidance == 1:
            return z_0
        shown, hidden = z_0.chunk(2)
        return guided(hidden, shown, self._guidance)


class HiddenCaptions:
    """Prefixes of hidden captions, which show the learned vector and a Gaussian: once a Gaussian.

    Valid as long as the network's weights do not change.
    """

    def __init__(self, network: PriorNetwork) -> None:
        self._network = network
        self._prefixes: dict[tuple[int, torch.dtype], Prefix] = {}

    def after(self, prefix: Prefix, c: Tensor) -> Prefix:
        """The captions' prefix [n] followed by that of n hidden captions of Gaussians c [n]."""
        gaussians, which = torch.unique(c, return_inverse=True)
        keys = [(gaussian, prefix.keys_and_values[0].dtype) for gaussian in gaussians.tolist()]
        if missing := [key for key in keys if key not in self._prefixes]:
            self._encode(missing, c.device)
        hidden = [self._prefixes[key] for key in keys]
        padding = prefix.visible.shape[1] - hidden[0].visible.shape[1]
        theirs = [
            torch.cat(its, 1) for its in zip(*(h.keys_and_values for h in hidden), strict=True)
        ]
        visible = F.pad(torch.cat([h.visible for h in hidden]), (padding, 0))
        layers = zip(prefix.keys_and_values, theirs, strict=True)
        return Prefix(
            tuple(
                torch.cat([own, F.pad(its, (0, 0, padding, 0))[:, which]], 1) for own, its in layers
            ),
            torch.cat([prefix.visible, visible[which]]),
        )

    def _encode(self, keys: list[tuple[int, torch.dtype]], device: torch.device) -> None:
        shape, k = self._network.shape, len(keys)
        found = self._network.encode_prefix(
            tokens=torch.zeros(k, 0, shape.text_width, device=device),
            mask=torch.zeros(k, 0, dtype=torch.bool, device=device),
            text=torch.zeros(k, shape.embedding_width, device=device),
            dropped=torch.ones(k, dtype=torch.bool, device=device),
            c=torch.tensor([gaussian for gaussian, _ in keys], device=device),
        )
        for row, key in enumerate(keys):
            one = slice(row, row + 1)
            self._prefixes[key] = Prefix(
                tuple(layer[:, one] for layer in found.keys_and_values), found.visible[one]
            )
