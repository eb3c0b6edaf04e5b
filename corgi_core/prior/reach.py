"""What a prior generates for the captions that there are, and how near images are to it.

The caption of an image without one is unknown, so the prior cannot be asked for its samples. But an
image that is far from all that the prior generates is one that it has not learned to generate.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from corgi_core.data.arrays import ArrayStore
from corgi_core.data.keys import KeySet
from corgi_core.encoders.caption_tokens import CaptionTokens
from corgi_core.encoders.tokens import padded
from corgi_core.gaussians.caption_candidates import directions_of, nearest_of
from corgi_core.prior.model import CAPTIONS_AT_ONCE, PriorModel
from corgi_core.training.rows import ChosenRows

CAPTIONS = 4096  # at most, evenly spaced
SAMPLES = 4  # of each caption


def reach_of(
    prior: PriorModel,
    captioned: KeySet,
    texts: ArrayStore,
    directions: NDArray[np.float32],
    seed: int,
) -> NDArray[np.float32]:
    """How near images are to what a prior generates for captions.

    Args:
        prior: The prior.
        captioned: Images whose first captions it is asked for: 4,096 at most, four samples each.
        texts: The captions' embeddings and tokens.
        directions: The images, as `directions_of` has them [n, d].
        seed: Of the samples.

    Returns:
        Each image's cosine to the nearest sample, averaged over the encoders [n].
    """
    captions, tokens = ChosenRows(texts, captioned, first_only=True), CaptionTokens(texts)
    nearest = np.full(len(directions), -1, dtype=np.float32)
    for rows in torch.split(captions.spaced(CAPTIONS), CAPTIONS_AT_ONCE):
        stored = captions.gather_ragged(rows, texts, tokens.array)
        prefix = padded(tokens.ragged(stored, prior.device), prior.device)
        (text,) = captions.gather(rows, (texts, "text"))
        for sample in range(SAMPLES):
            z = prior.sample(
                *prefix, text.float(), seed=seed + sample, sample_ids=rows.tolist()
            )  # fmt: skip
            samples = directions_of(z.float().cpu().numpy(), prior.bank.encoder_dims)
            np.maximum(nearest, nearest_of(directions, samples), out=nearest)
    return nearest
