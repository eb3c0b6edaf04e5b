"""A sampling step in one position: what does not depend on z_t is computed once, beforehand.

That is the captions' keys and values, and the embeddings of all timesteps. A step then runs the
noisy embedding's position alone, for both branches of the guidance at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from corgi_core.diffusion.guidance import guided
from corgi_core.prior.network import KVCache, PriorNetwork


class CachedDenoiser:
    """ẑ_0(z_t, t) of some captions at some timesteps, guided.

    Args:
        network: the prior's.
        kv_cache: of the captions [n].
        c: indices of their Gaussians [n].
        timesteps: at which it will be called.
        cond_scale: of the classifier-free guidance; 1 is none.
        compiled: use `CompiledStep` where it serves the captions.
        uncond: keeps the unconditional prefixes from one call to the next.
    """

    def __init__(
        self,
        network: PriorNetwork,
        kv_cache: KVCache,
        c: Tensor,
        timesteps: Sequence[int],
        cond_scale: float = 1.0,
        compiled: bool = False,
        uncond: UncondPrefixes | None = None,
    ) -> None:
        self._network, self._cond_scale = network, cond_scale
        if cond_scale != 1:
            kv_cache = (uncond or UncondPrefixes(network)).append_to(kv_cache, c)
        # Keys and values of [prefix · noisy embedding]; the last changes with every step.
        self._kv_cache = [F.pad(layer, (0, 0, 0, 1)) for layer in kv_cache.layers]
        attn_mask = F.pad(kv_cache.attn_mask, (0, 1), value=True)
        # Added to the scores. PyTorch would convert a boolean mask into this at every call.
        self._bias = torch.zeros_like(attn_mask, dtype=self._kv_cache[0].dtype).masked_fill(
            ~attn_mask, -torch.inf
        )[:, None, None, :]
        self._step: Callable[[Tensor, Tensor], Tensor] = self._eager_step
        if compiled:
            # numba takes a moment to load, so only this loads it.
            from corgi_core.prior.compiled_step import CompiledStep

            if CompiledStep.serves(network, self._kv_cache[0]):
                self._step = CompiledStep(network, self._kv_cache, attn_mask, cond_scale)
        embedded = network.embed_timestep(torch.tensor(timesteps, device=c.device))
        self._timesteps = dict(zip(timesteps, embedded, strict=True))

    def __call__(self, shrunk: Tensor, t: int) -> Tensor:
        """ẑ_0 [n, d] of the network's input `shrunk` at t, one of the timesteps.

        `shrunk`: [n, d], for both branches of the guidance, or [2 n, d] where they read different
        ones, the conditional first.
        """
        return self._step(shrunk, self._timesteps[t])

    @torch.inference_mode()
    def _eager_step(self, shrunk: Tensor, timestep: Tensor) -> Tensor:
        x = self._network.noisy(shrunk) + timestep
        x = x.repeat(len(self._bias) // len(x), 1).unsqueeze(1)
        for block, layer in zip(self._network.layers, self._kv_cache, strict=True):
            queries, layer[..., -1:, :] = block.queries_keys_values(x)
            attended = F.scaled_dot_product_attention(
                queries, layer[0], layer[1], attn_mask=self._bias
            )
            x = block(x, attended)
        z_0 = self._network.project(x.squeeze(1)).to(shrunk.dtype)
        if self._cond_scale == 1:
            return z_0
        cond, uncond = z_0.chunk(2)
        return guided(uncond, cond, self._cond_scale)


class UncondPrefixes:
    """The prefixes of dropped captions, one for each Gaussian, computed when first needed.

    Valid as long as the network's weights do not change.
    """

    def __init__(self, network: PriorNetwork) -> None:
        self._network = network
        self._prefixes: dict[tuple[int, torch.dtype], KVCache] = {}

    def append_to(self, kv_cache: KVCache, c: Tensor) -> KVCache:
        """The captions' cache [n], followed by n dropped captions with the same Gaussians c [n]."""
        gaussians, which = torch.unique(c, return_inverse=True)
        keys = [(gaussian, kv_cache.layers[0].dtype) for gaussian in gaussians.tolist()]
        if missing := [key for key in keys if key not in self._prefixes]:
            self._encode(missing, c.device)
        prefixes = [self._prefixes[key] for key in keys]
        padding = kv_cache.attn_mask.shape[1] - prefixes[0].attn_mask.shape[1]
        uncond = [torch.cat(layer, 1) for layer in zip(*(p.layers for p in prefixes), strict=True)]
        attn_mask = F.pad(torch.cat([p.attn_mask for p in prefixes]), (padding, 0))
        return KVCache(
            tuple(
                torch.cat([cond, F.pad(layer, (0, 0, padding, 0))[:, which]], 1)
                for cond, layer in zip(kv_cache.layers, uncond, strict=True)
            ),
            torch.cat([kv_cache.attn_mask, attn_mask[which]]),
        )

    def _encode(self, keys: list[tuple[int, torch.dtype]], device: torch.device) -> None:
        shape, k = self._network.shape, len(keys)
        found = self._network.encode_prefix(
            tokens=torch.zeros(k, 0, shape.text_width, device=device),
            attn_mask=torch.zeros(k, 0, dtype=torch.bool, device=device),
            text=torch.zeros(k, shape.embedding_width, device=device),
            cond_mask=torch.zeros(k, dtype=torch.bool, device=device),
            c=torch.tensor([gaussian for gaussian, _ in keys], device=device),
        )
        for row, key in enumerate(keys):
            one = slice(row, row + 1)
            self._prefixes[key] = KVCache(
                tuple(layer[:, one] for layer in found.layers), found.attn_mask[one]
            )
