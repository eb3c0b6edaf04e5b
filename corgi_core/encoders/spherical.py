"""Arithmetic with CLIP embeddings: ways on the sphere, taken block by block.

A CLIP embedding says what it says by its direction. So what lies between two of them is found by
turning one into the other, at constant angular speed (slerp: Shoemake, "Animating rotation with
quaternion curves", SIGGRAPH 1985), as DALL-E 2 does (Ramesh et al., "Hierarchical Text-Conditional
Image Generation with CLIP Latents", 2022, sections 3.2 and 3.3). Each encoder of an ensemble has a
sphere of its own, so every block turns by its own angle. All results have blocks of norm √d_b, as
every embedding here (`corgi_core.encoders.similarity`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from corgi_core.encoders.similarity import scale_per_encoder, unit_per_encoder
from corgi_core.errors import CorgiError

SMALLEST = 1e-4  # of a unit vector: less is float32's rounding, and its direction chance


def slerp(
    start: Tensor, end: Tensor, weight: float | Tensor, encoder_dims: Sequence[int]
) -> Tensor:
    """The point at `weight`, in [0, 1], of the shortest way from `start` to `end`.

    start, end [..., d] and weight [...], broadcast against each other → [..., d]. Per block, with a
    and b its unit vectors, θ the angle between them and e the part of b across a, scaled to norm 1:
    cos(wθ) a + sin(wθ) e, which is Shoemake's (sin((1−w)θ) a + sin(wθ) b) / sin θ and exact
    where θ is small. Raises CorgiError for a wrong width, numbers that are not finite, a weight
    outside [0, 1], and opposite directions, between which no way is the shortest.
    """
    fraction = torch.as_tensor(weight, dtype=torch.float64, device=start.device).unsqueeze(-1)
    if not bool(((fraction >= 0) & (fraction <= 1)).all()):  # NaN is neither
        raise CorgiError(
            f"a way from 0 to 1 has no point at {weight}", "give a weight between 0 and 1"
        )
    a, b = (_directions(z, encoder_dims) for z in (start, end))
    turned = [
        _turned(x, y, fraction)
        for x, y in zip(
            a.split(list(encoder_dims), -1), b.split(list(encoder_dims), -1), strict=True
        )
    ]
    return scale_per_encoder(torch.cat(turned, dim=-1), encoder_dims).to(start.dtype)


def way(start: Tensor, end: Tensor, count: int, encoder_dims: Sequence[int]) -> Tensor:
    """`count` points from `start` [d] to `end` [d], both included, equally far apart: [count, d].

    Raises CorgiError for fewer than two points, and as `slerp` does.
    """
    if count < 2:
        raise CorgiError(f"a way of {count} pictures leads nowhere", "ask for 2 or more")
    return slerp(start, end, torch.linspace(0, 1, count, dtype=torch.float64), encoder_dims)


def text_difference(before: Tensor, after: Tensor, encoder_dims: Sequence[int]) -> Tensor:
    """The direction from one caption to another.

    before, after [..., d], their CLIP *text* embeddings → [..., d]. Per block, the difference of
    the unit vectors, normalised. Turning an image's embedding towards it changes the image as the
    captions differ (DALL-E 2, section 3.3, which turns by 0.25 to 0.5 of the way). Texts and images
    lie apart in CLIP's space; the difference does away with that.
    Raises CorgiError where the captions are the same to one of the encoders, and for a wrong width.
    """
    difference = _directions(after, encoder_dims) - _directions(before, encoder_dims)
    lengths = torch.stack(
        [block.norm(dim=-1) for block in difference.split(list(encoder_dims), -1)]
    )
    if bool((lengths < SMALLEST).any()):
        raise CorgiError(
            "the two captions are the same to CLIP, so they give no direction",
            "give captions that differ in what they show",
        )
    return scale_per_encoder(difference, encoder_dims).to(before.dtype)


def _directions(z: Tensor, encoder_dims: Sequence[int]) -> Tensor:
    directions = unit_per_encoder(z.double(), encoder_dims)
    if not bool(torch.isfinite(directions).all()):
        raise CorgiError("an embedding holds numbers that are not finite", "embed the image again")
    if any(
        bool((block == 0).all(dim=-1).any()) for block in directions.split(list(encoder_dims), -1)
    ):
        raise CorgiError("an embedding is zero, so it has no direction", "embed the image again")
    return directions


def _turned(a: Tensor, b: Tensor, fraction: Tensor) -> Tensor:
    """Unit vectors a, b [..., d_b] and fraction [..., 1] → unit vectors [..., d_b]."""
    cosine = (a * b).sum(dim=-1, keepdim=True)
    across = b - cosine * a
    sine = across.norm(dim=-1, keepdim=True)
    if bool(((sine < SMALLEST) & (cosine < 0)).any()):
        raise CorgiError(
            "two embeddings point in opposite directions, and no way between them is the shortest",
            "choose another start or end",
        )
    angle = fraction * torch.atan2(sine, cosine)
    return angle.cos() * a + angle.sin() * F.normalize(across, dim=-1)
