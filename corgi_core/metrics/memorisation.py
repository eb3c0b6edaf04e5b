"""Memorisation: whether generated pictures are nearer to training images than new images are.

Near training images are no copying by themselves: a new image of a common thing has them too. So
the distances of held-out images to their nearest training images are the measure (Meehan et al., A
Non-Parametric Test to Detect Data-Copying in Generative Models, 2020, section 2.2).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from corgi_core.errors import CorgiError

TAIL = 0.01  # of the held-out images, those nearest to training: from there on it is a copy


class Memorisation(NamedTuple):
    """How near generated pictures are to training images, beside held-out images.

    Attributes:
        memorisation: The chance that a generated picture is nearer than a held-out image, ties
            counted half: 0.5 where nothing is memorised, 1 where all is.
        copies: The share of generated pictures that are nearer than 99 % of the held-out images:
            about 0.01 where nothing is memorised.
    """

    memorisation: float
    copies: float


def memorisation(
    generated: NDArray[np.floating[Any]], held_out: NDArray[np.floating[Any]]
) -> Memorisation:
    """Compare similarities to the nearest training image.

    Args:
        generated: Of the generated pictures [n]: the higher, the nearer, such as cosines.
        held_out: Of images that the model has not learned from [m].

    Returns:
        Both shares, in [0, 1]. The first is the statistic of Mann and Whitney's test over n · m.

    Raises:
        CorgiError: one of the two is empty, or not finite.

    Examples:
        >>> memorisation(np.array([0.9, 0.2]), np.array([0.1, 0.2, 0.3, 0.4]))
        Memorisation(memorisation=0.6875, copies=0.5)
    """
    for name, values in (("generated", generated), ("held-out", held_out)):
        if not len(values) or not np.isfinite(values).all():
            raise CorgiError(
                f"the similarities of {len(values)} {name} pictures to training images are none, "
                "or not finite",
                "give pictures, and look for broken embeddings",
            )
    ordered = np.sort(held_out)
    below, upto = (np.searchsorted(ordered, generated, side) for side in ("left", "right"))
    nearer = float((below + upto).mean(dtype=np.float64)) / (2 * len(ordered))
    edge = ordered[max(int(np.ceil((1 - TAIL) * len(ordered))) - 1, 0)]
    return Memorisation(nearer, float((generated > edge).mean()))
