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
from corgi_core.metrics.bootstrap import CI_HIGH, CI_LOW, middle, resamples

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
    _check(generated, held_out)
    every = np.ones((1, len(generated))), np.ones((1, len(held_out)))
    nearer, copied = _shares(generated, held_out, *every)
    return Memorisation(float(nearer[0]), float(copied[0]))


def memorisation_scores(
    generated: NDArray[np.floating[Any]], held_out: NDArray[np.floating[Any]]
) -> dict[str, float]:
    """`memorisation` of pairs, with the intervals of both shares by the bootstrap.

    A resample takes the pictures and the held-out images of the same captions, so the edge from
    which on a picture is a copy moves with them.

    Args:
        generated: Of the pictures of n captions [n].
        held_out: Of the same captions' images, or of as many others [n].

    Raises:
        CorgiError: there is none, or one is not finite.
    """
    found = memorisation(generated, held_out)._asdict()
    if (count := len(generated)) > 1:
        counts = (np.rint(weights * count) for weights in resamples(count, seed=0))
        shares = [np.stack(_shares(generated, held_out, each, each), axis=1) for each in counts]
        low, high = middle(shares).tolist()
        for name, below, above in zip(Memorisation._fields, low, high, strict=True):
            found |= {name + CI_LOW: below, name + CI_HIGH: above}
    return found


def _shares(
    generated: NDArray[np.floating[Any]],
    held_out: NDArray[np.floating[Any]],
    generated_counts: NDArray[np.float64],
    held_out_counts: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both shares [b] of resamples in which picture i counts so often, [b, n] and [b, m]."""
    order = np.argsort(held_out, kind="stable")
    below, upto = (np.searchsorted(held_out[order], generated, side) for side in ("left", "right"))
    farther = np.zeros((len(held_out_counts), len(held_out) + 1))  # held-out images, by rank
    np.cumsum(held_out_counts[:, order], axis=1, out=farther[:, 1:])
    total = farther[:, -1:]
    nearer = (generated_counts * (farther[:, below] + farther[:, upto])).sum(axis=1)
    edge = (farther[:, 1:] < np.ceil((1 - TAIL) * total)).sum(axis=1, keepdims=True)
    copied = (generated_counts * (below > edge)).sum(axis=1)
    counts = generated_counts.sum(axis=1)
    return nearer / (2 * total[:, 0] * counts), copied / counts


def _check(generated: NDArray[np.floating[Any]], held_out: NDArray[np.floating[Any]]) -> None:
    for name, values in (("generated", generated), ("held-out", held_out)):
        if not len(values) or not np.isfinite(values).all():
            raise CorgiError(
                f"the similarities of {len(values)} {name} pictures to training images are none, "
                "or not finite",
                "give pictures, and look for broken embeddings",
            )
