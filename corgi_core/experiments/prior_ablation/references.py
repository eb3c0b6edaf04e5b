"""What stands beside the study's arms: embeddings that need no diffusion.

The mean has a high cosine and retrieves nothing. Real images of other captions have the lowest
Fréchet distance that so many embeddings can have. An arm below the linear prior has not earned its
network.
"""

from __future__ import annotations

import torch
from torch import Tensor

from corgi_core.data.keys import SplitKeys
from corgi_core.data.splits import TRAIN
from corgi_core.evaluation.nearest import TrainingImages
from corgi_core.evaluation.report import (
    CONTRASTIVE_PRIOR,
    LINEAR_PRIOR,
    NEAREST_TO_IMAGE,
    NEAREST_TO_TEXT,
)
from corgi_core.experiments.prior_ablation.measure import Measurement, Study
from corgi_core.prior.contrastive_linear import contrastive_prior
from corgi_core.prior.ridge import ridge_prior
from corgi_core.training.rows import ChosenRows

MEAN, TEXT, REAL = (
    "the training images' mean", "the CLIP text embedding", "other, real images",
)  # fmt: skip
"""Labels of rows, beside those of an evaluation's baselines."""


def measure_references(study: Study, seed: int) -> Measurement:
    """The table "references": scores of embeddings of the held-out captions, a row each.

    Args:
        study: Has the captions. The linear priors' penalty is chosen on them too, as arms are.
        seed: Of the real images, which are random training images.
    """
    captions, training = study.held_out, ChosenRows(study.images, SplitKeys(study.dataset, TRAIN))
    random = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(training), (len(captions),), generator=random)
    (others,) = training.gather(rows, (study.images, "image"))
    stores = study.dataset, study.images, study.texts
    linear = ridge_prior(*stores)
    contrastive = contrastive_prior(linear, *stores)
    embeddings = {
        MEAN: study.fitted[1].means.expand_as(captions.image),
        TEXT: captions.text,
        REAL: others.float(),
        NEAREST_TO_IMAGE: _nearest(study, captions.image),
        NEAREST_TO_TEXT: _nearest(study, captions.text),
        LINEAR_PRIOR: linear.predict_captions(captions.text, captions.tokens),
        CONTRASTIVE_PRIOR: contrastive.predict_captions(captions.text, captions.tokens),
    }
    scores = [
        {"label": name, "start": name, "seed": seed, **study.scorer.scores(z)}
        for name, z in embeddings.items()
    ]
    return {"references": scores}


def _nearest(study: Study, queries: Tensor) -> Tensor:
    """The embeddings of the training images nearest to queries [n, d]: [n, d]."""
    training = TrainingImages(study.dataset, study.images)
    numbers, _ = training.nearest_numbers(queries, 1)
    found = training.listed(numbers[:, 0])
    return found.image_embeddings(torch.arange(len(found)).numpy(), study.images)
