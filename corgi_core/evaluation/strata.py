"""Which test images have a near neighbour among the training images: scores are reported of both.

Scores on test images that have a near copy in the training data say little about new images.
A neighbour is near by the cosine of the image embeddings or, where pixels are stored, by
perceptual hash and a lower cosine. Pixels that are decoded online are not decoded for this alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from corgi_core.config import EvaluationSettings
from corgi_core.evaluation.training_neighbours import Found


def near_training(found: Found, settings: EvaluationSettings) -> NDArray[np.bool_]:
    """Which of the test images [n] have a near neighbour among the training images."""
    near: NDArray[np.bool_] = found.cosines >= settings.near_cosine
    if found.by_hash is None:
        return near
    return near | found.by_hash.within(settings.near_bits, settings.near_hash_cosine)


def of_strata(near: NDArray[np.bool_], settings: EvaluationSettings) -> dict[str, Any]:
    """The protocol's fields of the strata: what is near, and how many test images [n] are."""
    return {
        "near_cosine": settings.near_cosine,
        "near_bits": settings.near_bits,
        "near_hash_cosine": settings.near_hash_cosine,
        "near_images": int(near.sum()),
    }
