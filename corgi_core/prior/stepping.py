"""A sampling step in two positions: whatever does not depend on u_t is computed beforehand.

Attention is causal, so of the suffix [timestep · Gaussian · noisy embedding · final] the first two
positions know nothing of u_t either. Their keys and values are computed for many timesteps in one
pass, and a step runs the last two positions only, for both branches of the guidance at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from corgi_core.prior.block import attend_to_prefix_and_own
from corgi_core.prior.network import Prefix, PriorNetwork

AHEAD_BYTES = 2**28  # at most so much memory for the keys and values of timesteps to come


class Stepping:
    """ẑ_0(u_t, t) of given captions, for the given timesteps in their order.

    `prefix` is the captions' [n], c [n] their Gaussians. With guidance w ≠ 1 (Ho and Salimans,
    2022) the prediction is ẑ_0(∅) + w (ẑ_0(y) − ẑ_0(∅)), over all dimensions.
    """

    def __init__(
        self,
        network: PriorNetwork,
        prefix: Prefix,
        c: Tensor,
        timesteps: Sequence[int],
        guidance: float = 1.0,
    ) -> None:
        self._network, self._timesteps, self._guidance = network, list(timesteps), guidance
        if guidance != 1:
            prefix, c = _with_hidden_text(network, prefix), c.repeat(2)
        self._prefix, self._c = prefix, c
        length = prefix.visible.shape[1]
        # Keys and values of [prefix · timestep · Gaussian · noisy · final]; the last four change.
        self._kept = [F.pad(there, (0, 0, 0, 4)) for there in prefix.keys_and_values]
        self._step, self._own = slice(length, length + 2), slice(length + 2, length + 4)
        causal = torch.tensor([[True, True, True, False], [True] * 4], device=c.device)
        visible = prefix.visible[:, None, :].expand(-1, 2, -1)
        seen = torch.cat([visible, causal.expand(len(c), 2, 4)], dim=2).unsqueeze(1)
        # Added to the scores: a mask of booleans would be turned into this at every call.
        self._unseen = torch.zeros_like(seen, dtype=self._kept[0].dtype).masked_fill(
            ~seen, -torch.inf
        )
        self._place: dict[int, int] = {}  # of a timestep in what was computed ahead
        self._ahead: list[Tensor] = []  # layer by layer [2, n, heads, timesteps, 2, width/heads]

    @torch.inference_mode()
    def __call__(self, u_t: Tensor, t: int) -> Tensor:
        """ẑ_0 [n, d]. u_t [n, d] whitened, t one of the timesteps."""
        if t not in self._place:
            self._look_ahead(t)
        if self._guidance == 1:
            return self._denoise(u_t, t)
        shown, hidden = self._denoise(u_t.repeat(2, 1), t).chunk(2)
        return hidden + self._guidance * (shown - hidden)

    def _denoise(self, u_t: Tensor, t: int) -> Tensor:
        network, place = self._network, self._place[t]
        x = network.embed_noisy(u_t.unsqueeze(1)).squeeze(1)  # [n, 2, width]
        for i, (block, kept) in enumerate(zip(network.layers, self._kept, strict=True)):
            asking = 1 if i == len(network.layers) - 1 else 2
            queries, own = block.queries_keys_values(x, asking)
            kept[..., self._step, :] = self._ahead[i][..., place, :, :]
            kept[..., self._own, :] = own
            unseen = self._unseen[:, :, -asking:]
            found = F.scaled_dot_product_attention(queries, kept[0], kept[1], attn_mask=unseen)
            x = block(x[:, -asking:], found)
        return network.project(x.squeeze(1))

    def _look_ahead(self, t: int) -> None:
        """Keys and values of [timestep · Gaussian] at `t` and after it, as far as memory allows."""
        network, shape = self._network, self._network.shape
        one = 2 * 2 * shape.width * shape.layers * len(self._c) * self._kept[0].element_size()
        first = self._timesteps.index(t)
        coming = self._timesteps[first : first + max(1, AHEAD_BYTES // one)]
        self._place = {timestep: place for place, timestep in enumerate(coming)}
        timesteps = torch.tensor(coming, device=self._c.device).expand(len(self._c), -1)
        x = network.embed_steps(timesteps, self._c)
        self._ahead = []
        for block, prefix in zip(network.layers, self._prefix.keys_and_values, strict=True):
            queries, own = block.queries_keys_values(x, asking=2)
            self._ahead.append(own)
            if block is not network.layers[-1]:
                found = attend_to_prefix_and_own(queries, prefix, own, self._prefix.visible)
                x = block(x, found)


def _with_hidden_text(network: PriorNetwork, prefix: Prefix) -> Prefix:
    """The captions' prefix [n] followed by that of n hidden captions, which are all alike.

    A hidden caption shows one position, the learned vector; it is computed for one of them.
    """
    shape, device = network.shape, prefix.visible.device
    n, length = prefix.visible.shape
    hidden = network.encode_prefix(
        tokens=torch.zeros(1, 1, shape.text_width, device=device),
        mask=torch.zeros(1, 1, dtype=torch.bool, device=device),
        text=torch.zeros(1, shape.embedding_width, device=device),
        dropped=torch.ones(1, dtype=torch.bool, device=device),
    )

    alone = (F.pad(there[:, :, :, -1:], (0, 0, length - 1, 0)) for there in hidden.keys_and_values)
    both = zip(prefix.keys_and_values, alone, strict=True)
    visible = F.pad(hidden.visible[:, -1:], (length - 1, 0), value=False).expand(n, -1)
    return Prefix(
        tuple(torch.cat([shown, one.expand(-1, n, -1, -1, -1)], dim=1) for shown, one in both),
        torch.cat([prefix.visible, visible]),
    )
