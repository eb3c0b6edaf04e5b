"""Arithmetic with CLIP embeddings on the sphere, encoder by encoder.

The meaning of a CLIP embedding is its direction. Points between two embeddings are therefore taken
on the great circle through them, at constant angular speed (slerp: Shoemake, "Animating rotation
with quaternion curves", SIGGRAPH 1985), as in DALL-E 2 (Ramesh et al., "Hierarchical
Text-Conditional Image Generation with CLIP Latents", 2022, sections 3.2 and 3.3). Each encoder of
an ensemble has a sphere of its own, so each encoder's part turns by its own angle. All results have
parts of norm √d_b, as every embedding (`corgi_core.encoders.similarity`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from corgi_core.encoders.similarity import scale_per_encoder, unit_per_encoder
from corgi_core.errors import CorgiError

MIN_NORM = 1e-4  # of a difference of unit vectors: below it, float32's rounding decides


def slerp(
    start: Tensor, end: Tensor, weight: float | Tensor, encoder_dims: Sequence[int]
) -> Tensor:
    """The point at `weight` of the shortest arc from `start` to `end`.

    For each encoder, with unit vectors a and b, θ the angle between them and e the component of b
    orthogonal to a, scaled to norm 1: cos(wθ) a + sin(wθ) e. This equals Shoemake's
    (sin((1−w)θ) a + sin(wθ) b) / sin θ and stays exact where θ is small.

    Args:
        start: Embeddings [..., d].
        end: Embeddings [..., d], broadcast against `start`.
        weight: The fraction w of the arc, in [0, 1]: a number, or [...].
        encoder_dims: The widths d_b of the encoders, whose sum is d.

    Returns:
        Embeddings [..., d], each encoder's part of norm √d_b, on the device of `start`.

    Raises:
        CorgiError: For another width, numbers that are not finite, a weight outside [0, 1], and
            opposite directions, between which no arc is the shortest.

    Examples:
        >>> slerp(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 0.5, (2,))
        tensor([1., 1.])
    """
    fraction = torch.as_tensor(weight, dtype=torch.float64, device=start.device).unsqueeze(-1)
    if not bool(((fraction >= 0) & (fraction <= 1)).all()):  # NaN is neither
        raise CorgiError(f"there is no point at weight {weight}", "give a weight between 0 and 1")
    a, b = (_directions(z.to(start.device), encoder_dims) for z in (start, end))
    turned = [
        _turned(x, y, fraction)
        for x, y in zip(
            torch.split(a, list(encoder_dims), -1),
            torch.split(b, list(encoder_dims), -1),
            strict=True,
        )
    ]
    return scale_per_encoder(torch.cat(turned, dim=-1), encoder_dims).to(start.dtype)


def interpolation(
    start: Tensor, end: Tensor, num_points: int, encoder_dims: Sequence[int]
) -> Tensor:
    """Points at equal distances on the arc from one embedding to another.

    Args:
        start: The first point [d].
        end: The last point [d].
        num_points: At least 2.
        encoder_dims: The widths d_b of the encoders, whose sum is d.

    Returns:
        Embeddings [num_points, d], both ends included.

    Raises:
        CorgiError: For fewer than two points, and as `slerp` does.
    """
    if num_points < 2:
        raise CorgiError(
            f"an interpolation of {num_points} images has no two ends", "ask for 2 or more"
        )
    return slerp(start, end, torch.linspace(0, 1, num_points, dtype=torch.float64), encoder_dims)


def text_difference(before: Tensor, after: Tensor, encoder_dims: Sequence[int]) -> Tensor:
    """The direction from one caption to another: the difference of unit vectors, normalised.

    Turning an image's embedding towards it changes the image as the captions differ (DALL-E 2,
    section 3.3, which turns by 0.25 to 0.5 of the arc). Texts and images lie apart in CLIP's space;
    the difference cancels that gap.

    Args:
        before: The first caption's CLIP *text* embedding [..., d].
        after: The second caption's [..., d].
        encoder_dims: The widths d_b of the encoders, whose sum is d.

    Returns:
        The direction [..., d], each encoder's part of norm √d_b.

    Raises:
        CorgiError: If an encoder sees no difference between the captions, or for another width.
    """
    difference = _directions(after, encoder_dims) - _directions(before, encoder_dims)
    lengths = torch.stack(
        [block.norm(dim=-1) for block in torch.split(difference, list(encoder_dims), -1)]
    )
    if bool((lengths < MIN_NORM).any()):
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
        bool((block == 0).all(dim=-1).any())
        for block in torch.split(directions, list(encoder_dims), -1)
    ):
        raise CorgiError("an embedding is zero, so it has no direction", "embed the image again")
    return directions


def _turned(a: Tensor, b: Tensor, fraction: Tensor) -> Tensor:
    """Unit vectors a, b [..., d_b] and fraction [..., 1] → unit vectors [..., d_b]."""
    cosine = (a * b).sum(dim=-1, keepdim=True)
    across = b - cosine * a
    sine = across.norm(dim=-1, keepdim=True)
    if bool(((sine < MIN_NORM) & (cosine < 0)).any()):
        raise CorgiError(
            "two embeddings point in opposite directions, and no arc between them is the shortest",
            "choose another start or end",
        )
    angle = fraction * torch.atan2(sine, cosine)
    return angle.cos() * a + angle.sin() * F.normalize(across, dim=-1)
