"""Signs of eigenvectors, which processors and libraries choose differently."""

from __future__ import annotations

from torch import Tensor


def with_fixed_signs(directions: Tensor) -> Tensor:
    """Directions [p, k] in columns, each turned so that its largest component is positive."""
    largest = directions.abs().argmax(dim=0, keepdim=True)
    return directions * (1 - 2 * (directions.gather(0, largest) < 0).to(directions))
