"""Pictures of the grids' captions with further seeds: how much of a picture the noise decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from corgi_core.config import NO_SUBSET
from corgi_core.evaluation.held_out import Chunks, HeldOut
from corgi_core.evaluation.material import Material
from corgi_core.evaluation.picture_features import (
    CHUNK,
    PICTURES,
    REAL,
    Decoded,
    PictureFeatures,
    Pictures,
)
from corgi_core.evaluation.predictors import Predictor, samples_of
from corgi_core.evaluation.prior_scores import Name
from corgi_core.evaluation.report import REAL_EMBEDDING, Samples
from corgi_core.evaluation.sampling import SampledEmbeddings
from corgi_core.evaluation.stored_models import StoredDecoder, StoredPrior
from corgi_core.io.pictures import picture

FOLDERS = "seed_embeddings", "seed_pictures"  # of the stored arrays


def seed_grids(
    priors: Mapping[Name, StoredPrior],
    decoder: StoredDecoder,
    captions: HeldOut,
    seeds: Sequence[int],
    material: Material,
) -> dict[int, Samples]:
    """The pictures that the decoder makes of the captions with each of the seeds.

    Args:
        priors: Whose samples are decoded; the seed is that of their noise too.
        decoder: Decodes them, and the images' real embeddings.
        captions: Few: all of their pictures are stored.
        seeds: One picture of each caption and source for each.
        material: Where captions and images are, and where they are computed with.

    Returns:
        By seed and source the captions with their pictures; nothing where there are no seeds.
    """
    assert material.pixels is not None, "there are no images to decode for"
    cases: dict[tuple[int, Name], Decoded] = {}
    for seed in seeds:
        cases[seed, (REAL_EMBEDDING, NO_SUBSET)] = Decoded(decoder, REAL, seed)
        for name, prior in priors.items():
            cases[seed, name] = Decoded(decoder, samples_of(prior, seed), seed)
    if not cases:
        return {}
    stores, rows = (material.image_embeddings, material.text_embeddings), range(len(captions))
    sources = [case.source for case in cases.values() if not isinstance(case.source, str)]
    sampling = SampledEmbeddings(
        Chunks[Predictor](captions, tuple(sources), CHUNK, tuple(rows)), *stores, material.precision
    )
    of_samples, of_pictures = (material.folder / name for name in FOLDERS)
    chunks = Chunks[Pictures](captions, tuple(cases.values()), CHUNK, tuple(rows))
    decoding = PictureFeatures(
        chunks, *stores, material.pixels, material.clip, material.run(sampling, of_samples),
        precision=material.precision, dataset=material.images,
    )  # fmt: skip
    store = material.run(decoding, of_pictures)
    found: dict[int, Samples] = {}
    for (seed, name), case in cases.items():
        (shard,) = chunks.shards_of(case)
        pixels = torch.from_numpy(np.array(store.mapped(shard, PICTURES))).float() / 255
        decoded = [(c, picture(p)) for c, p in zip(captions.captions, pixels, strict=True)]
        found.setdefault(seed, {})[name] = decoded
    return found
