"""What stands beside the study's arms: embeddings that need no diffusion.

The mean has a high cosine and retrieves nothing. Real images of other captions have the lowest
Fréchet distance that so many embeddings can have. An arm below the linear prior has not earned its
network.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from corgi_core.data.keys import SplitKeys
from corgi_core.data.splits import TRAIN
from corgi_core.evaluation.derangement import derangement
from corgi_core.evaluation.nearest import TrainingImages
from corgi_core.evaluation.report import (
    CONTRASTIVE_PRIOR,
    LINEAR_PRIOR,
    NEAREST_TO_IMAGE,
    NEAREST_TO_TEXT,
    RANDOM_TRAINING,
    REAL_AGAINST_REAL,
    TEXT_EMBEDDING,
)
from corgi_core.experiments.prior_ablation.measure import REFERENCES, Measurement, Study
from corgi_core.experiments.prior_ablation.scores import Scorer
from corgi_core.prior.contrastive_linear import contrastive_prior
from corgi_core.prior.ridge import ridge_prior
from corgi_core.training.rows import ChosenRows

MEAN = "the training images' mean"
"""The label of a row, beside those of an evaluation's baselines."""


def measure_references(study: Study, seed: int) -> Measurement:
    """The table "references": scores of embeddings of the held-out captions, a row each.

    "real against real" is of one random half of the images against the other half, so its recall is
    among half as many, and its Fréchet distance is more biased.

    Args:
        study: Has the captions. The linear priors' penalty is chosen on them too, as arms are.
        seed: Of the real images, which are random training images.
    """
    captions, training = study.held_out, ChosenRows(study.images, SplitKeys(study.dataset, TRAIN))
    random = torch.Generator().manual_seed(seed)
    numbers = torch.randint(len(training), (len(captions),), generator=random)
    (others,) = training.gather(numbers, (study.images, "image"))
    stores = study.dataset, study.images, study.texts
    linear = ridge_prior(*stores, left_out=study.left_out)
    contrastive = contrastive_prior(linear, *stores)
    embeddings = {
        MEAN: study.fitted[1].means.expand_as(captions.image),
        TEXT_EMBEDDING: captions.text,
        RANDOM_TRAINING: others.float(),
        NEAREST_TO_IMAGE: _nearest(study, captions.image),
        NEAREST_TO_TEXT: _nearest(study, captions.text),
        LINEAR_PRIOR: linear.predict_captions(captions.text, captions.tokens),
        CONTRASTIVE_PRIOR: contrastive.predict_captions(captions.text, captions.tokens),
    }
    scores = {REAL_AGAINST_REAL: _real_against_real(captions.image, study.scorer.encoder_dims)}
    scores |= {name: study.scorer.scores(z) for name, z in embeddings.items()}
    rows = [{"label": name, "start": name, "seed": seed, **found} for name, found in scores.items()]
    return {REFERENCES: rows}


def _real_against_real(real: Tensor, encoder_dims: Sequence[int]) -> dict[str, float]:
    """Scores of a random half of the images [n, d] against the other half, the same ones always."""
    half, other, *_ = torch.split(derangement(len(real)), len(real) // 2)
    return Scorer(real[other], encoder_dims).scores(real[half])


def _nearest(study: Study, queries: Tensor) -> Tensor:
    """The embeddings of the training images nearest to queries [n, d]: [n, d]."""
    training = TrainingImages(study.dataset, study.images)
    numbers, _ = training.nearest_numbers(queries, 1)
    found = training.listed(numbers[:, 0])
    return found.image_embeddings(torch.arange(len(found)).numpy(), study.images)
