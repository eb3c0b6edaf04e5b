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
        caches = [kv_cache]
        if cond_scale != 1:
            caches.append((uncond or UncondPrefixes(network)).of(c, kv_cache.layers[0].dtype))
        self._kv_cache, attn_mask = _with_room(caches)
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

    def of(self, c: Tensor, dtype: torch.dtype) -> KVCache:
        """The prefixes of dropped captions with the Gaussians c [n], in the cache's type."""
        gaussians, which = torch.unique(c, return_inverse=True)
        keys = [(gaussian, dtype) for gaussian in gaussians.tolist()]
        if missing := [key for key in keys if key not in self._prefixes]:
            self._encode(missing, c.device)
        prefixes = [self._prefixes[key] for key in keys]
        layers = zip(*(prefix.layers for prefix in prefixes), strict=True)
        attn_mask = torch.cat([prefix.attn_mask for prefix in prefixes])
        return KVCache(tuple(torch.cat(layer, 1)[:, which] for layer in layers), attn_mask[which])

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


def _with_room(caches: Sequence[KVCache]) -> tuple[list[Tensor], Tensor]:
    """Keys and values of [prefix · noisy embedding], the last to be filled in by every step.

    Args:
        caches: of prefixes of any length, one below the other.

    Returns:
        The layers [2, rows, heads, S, width/heads], shorter prefixes after zeros; and which of the
        S positions each row attends to [rows, S].
    """
    longest = max(cache.attn_mask.shape[1] for cache in caches)
    attn_mask = torch.cat(
        [F.pad(each.attn_mask, (longest - each.attn_mask.shape[1], 0)) for each in caches]
    )
    first = caches[0].layers[0]
    shape = 2, len(attn_mask), first.shape[2], longest + 1, first.shape[4]
    layers = [first.new_zeros(shape) for _ in caches[0].layers]
    begin = 0
    for cache in caches:
        end, positions = begin + len(cache.attn_mask), cache.attn_mask.shape[1]
        for layer, cached in zip(layers, cache.layers, strict=True):
            layer[:, begin:end, :, longest - positions : longest] = cached
        begin = end
    return layers, F.pad(attn_mask, (0, 1), value=True)
