"""Similarity of embeddings of several CLIP encoders: under each encoder, then averaged.

An embedding is the concatenation of the encoders' outputs, of widths `encoder_dims`. One cosine
over the concatenation would let the encoder with the longest vectors decide.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from corgi_core.errors import CorgiError

QUERIES = 256  # whose similarities to all images are in memory


def _split(z: Tensor, encoder_dims: Sequence[int]) -> tuple[Tensor, ...]:
    if z.shape[-1] != sum(encoder_dims):
        raise CorgiError(
            f"embeddings are {z.shape[-1]} wide, but encoders of widths {tuple(encoder_dims)} make "
            f"{sum(encoder_dims)}",
            "use embeddings and encoders that belong together, or embed the images again",
        )
    return torch.split(z, list(encoder_dims), dim=-1)


def cosine_by_encoder(a: Tensor, b: Tensor, encoder_dims: Sequence[int]) -> Tensor:
    """Cosine under each encoder. a, b [..., d] (broadcast against each other) → [..., B]."""
    pairs = zip(_split(a, encoder_dims), _split(b, encoder_dims), strict=True)
    return torch.stack([F.cosine_similarity(x, y, dim=-1) for x, y in pairs], dim=-1)


def mean_encoder_cosine(a: Tensor, b: Tensor, encoder_dims: Sequence[int]) -> Tensor:
    """Cosine for each encoder, averaged over the encoders. a, b [..., d] → [...], in [−1, 1].

    Examples:
        >>> a, b = torch.tensor([1.0, 0.0, 0.0, 2.0]), torch.tensor([3.0, 0.0, 1.0, 0.0])
        >>> mean_encoder_cosine(a, b, (2, 2))
        tensor(0.5000)
    """
    return cosine_by_encoder(a, b, encoder_dims).mean(dim=-1)


def unit_per_encoder(z: Tensor, encoder_dims: Sequence[int]) -> Tensor:
    """Each encoder's output scaled to norm 1. z [..., d] → [..., d].

    Of two such vectors the inner product is the sum of the encoders' cosines.

    Examples:
        >>> unit_per_encoder(torch.tensor([3.0, 4.0, 0.0, 2.0]), (2, 2))
        tensor([0.6000, 0.8000, 0.0000, 1.0000])
    """
    return torch.cat([F.normalize(part, dim=-1) for part in _split(z, encoder_dims)], dim=-1)


def scale_per_encoder(z: Tensor, encoder_dims: Sequence[int]) -> Tensor:
    """Each encoder's output scaled to norm √d_b. z [..., d] → [..., d].

    Coordinates then have a root mean square of 1, as those of N(0, I) have (DALL-E 2 scales its
    embeddings by √d for the same reason).
    """
    scaled = [
        F.normalize(part, dim=-1) * width**0.5
        for part, width in zip(_split(z, encoder_dims), encoder_dims, strict=True)
    ]
    return torch.cat(scaled, dim=-1)


class Retrieval:
    """Finds a query's own image among all images [n, d], whose encoders' widths sum to d."""

    def __init__(self, images: Tensor, encoder_dims: Sequence[int]) -> None:
        self._encoder_dims = tuple(encoder_dims)
        parts = _split(images.double(), encoder_dims)
        self._images = [F.normalize(part, dim=-1) for part in parts]

    def nearer(self, queries: Tensor, own: Tensor) -> Tensor:
        """How many images are at least as near to each query as its own: long [m].

        Memory holds the similarities of 256 queries at a time.

        Args:
            queries: Embeddings [m, d].
            own: Row of each query's own image, long [m].
        """
        rows = zip(torch.split(queries, QUERIES), torch.split(own, QUERIES), strict=True)
        return torch.cat([self._nearer(*each) for each in rows])

    def _nearer(self, queries: Tensor, own: Tensor) -> Tensor:
        parts = zip(_split(queries.double(), self._encoder_dims), self._images, strict=True)
        similarity = sum(F.normalize(x, dim=-1) @ y.T for x, y in parts)
        assert isinstance(similarity, Tensor)
        as_near = similarity >= similarity.gather(1, own.unsqueeze(1))
        return as_near.sum(dim=1) - 1  # not itself


def recall_at(
    queries: Tensor,
    images: Tensor,
    ranks: Sequence[int],
    encoder_dims: Sequence[int],
    own: Tensor | None = None,
) -> dict[int, float]:
    """Share of queries whose own image is among the k nearest of all images, for each k of `ranks`.

    An image that is as near as the query's own counts as nearer, so ties and collapsed embeddings
    do not raise the recall.

    Args:
        queries: Embeddings [m, d].
        images: Embeddings [n, d].
        ranks: The numbers k.
        encoder_dims: Widths of the encoders, which sum to d.
        own: Row of each query's own image, long [m]; without it, query i belongs to image i.

    Returns:
        The share by k, each in [0, 1].

    Raises:
        CorgiError: the queries and images have different widths, or `own` does not fit.
    """
    own = torch.arange(len(images), device=images.device) if own is None else own
    if len(queries) != len(own) or queries.shape[1] != images.shape[1]:
        raise CorgiError(
            f"{tuple(queries.shape)} queries do not match {tuple(images.shape)} images",
            "give one image embedding for each query, in the same order, or `own`",
        )
    nearer = Retrieval(images, encoder_dims).nearer(queries, own)
    return {rank: (nearer < rank).double().mean().item() for rank in ranks}
