"""The baselines that every table of priors has, to compare its scores with.

Some need no model, some a linear map. A diffusion that does not exceed the linear prior has added
nothing to it; one that does not exceed the nearest training image may have memorised.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from corgi_core.config import NO_SUBSET
from corgi_core.data.keys import validation_keys
from corgi_core.data.revisions import LINEAR_PRIORS_REVISION
from corgi_core.errors import CorgiError
from corgi_core.evaluation.derangement import derangement
from corgi_core.evaluation.held_out import HeldOut
from corgi_core.evaluation.material import Material
from corgi_core.evaluation.picture_features import Decoded, StoredPictures
from corgi_core.evaluation.predictors import (
    LinearPredictions,
    Predictor,
    StoredImages,
    TextEmbeddings,
)
from corgi_core.evaluation.report import (
    CONTRASTIVE_PRIOR,
    LINEAR_PRIOR,
    NEAREST_TO_IMAGE,
    NEAREST_TO_TEXT,
    RANDOM_TRAINING,
    REAL_AGAINST_REAL,
    TEXT_EMBEDDING,
    TRAINING_PICTURES,
)
from corgi_core.evaluation.stored_models import StoredDecoder
from corgi_core.evaluation.training_neighbours import Found, nearest_to_texts
from corgi_core.io.files import digest_of
from corgi_core.prior.contrastive_linear import contrastive_prior
from corgi_core.prior.linear import LinearPrior
from corgi_core.prior.ridge import ridge_prior


def baselines(
    held_out: HeldOut, material: Material, neighbours: Found, seed: int
) -> dict[str, Predictor]:
    """What is predicted for the captions without a trained prior, by the names of the rows.

    Args:
        held_out: The test images and captions.
        material: Their embeddings, and what the models learned from.
        neighbours: The nearest training images.
        seed: Of the random training images.

    Returns:
        Another test image's embedding for each caption ("real against real"); the training image
        nearest to the test image, the one nearest to the caption's text embedding, and a random
        one; the text embedding; and the two linear priors.

    Raises:
        CorgiError: the training or validation images have no captions.
    """
    training = neighbours.training
    others = held_out.taken(derangement(len(held_out)).numpy())
    random = np.random.default_rng(seed).integers(training.count, size=len(held_out))
    linear, contrastive = linear_priors(material)
    return {
        REAL_AGAINST_REAL: StoredImages(others, material.image_embeddings),
        NEAREST_TO_IMAGE: StoredImages(neighbours.images("image"), training.embeddings),
        NEAREST_TO_TEXT: StoredImages(neighbours.images("text"), training.embeddings),
        RANDOM_TRAINING: StoredImages(training.listed(random), training.embeddings),
        TEXT_EMBEDDING: TextEmbeddings(),
        LINEAR_PRIOR: LinearPredictions(linear),
        CONTRASTIVE_PRIOR: LinearPredictions(contrastive),
    }


def validation_baselines(captions: HeldOut, material: Material) -> dict[str, Predictor]:
    """The baselines that a prior must not fall behind: those that know no more than the caption.

    Left out of `baselines` is what looks at the image that is to be predicted, and what looks at
    nothing.

    Args:
        captions: The validation images and captions.
        material: Their embeddings, and what the models learned from.
    """
    linear, contrastive = linear_priors(material)
    nearest = nearest_to_texts(captions, material, "validation_neighbours")
    return {
        NEAREST_TO_TEXT: StoredImages(nearest, material.training.image_embeddings),
        TEXT_EMBEDDING: TextEmbeddings(),
        LINEAR_PRIOR: LinearPredictions(linear),
        CONTRASTIVE_PRIOR: LinearPredictions(contrastive),
    }


def baseline_pictures(
    beside: Mapping[str, Predictor], rows: NDArray[np.int64], material: Material, size: int
) -> dict[tuple[str, str], StoredPictures]:
    """The nearest and the random training images themselves, as rows of the pictures' table.

    Args:
        beside: The `baselines`.
        rows: The captions of which there are pictures.
        material: With the training images' pixels.
        size: Pixels to a side.
    """
    training = material.training
    assert training.pixels is not None, "there are no training images to compare pictures with"
    return {
        (name, NO_SUBSET): StoredPictures(
            case.images.taken(rows), training.pixels, training.images, size
        )
        for name, case in beside.items()
        if name in TRAINING_PICTURES and isinstance(case, StoredImages)
    }


def baseline_decodings(
    beside: Mapping[str, Predictor], decoder: StoredDecoder, seed: int
) -> dict[tuple[str, str], Decoded]:
    """The pictures that a decoder makes of what is predicted without a trained prior of ours.

    Args:
        beside: The `baselines`, and other people's priors.
        decoder: Decodes text embeddings, and the predictions of linear and of others' priors.
        seed: Of its noise.
    """
    return {
        (name, NO_SUBSET): Decoded(decoder, case, seed)
        for name, case in beside.items()
        if not isinstance(case, StoredImages)
    }


def linear_priors(material: Material) -> tuple[LinearPrior, LinearPrior]:
    """The ridge regression on all training captions, and the map with a contrastive term.

    They are stored beside the chunks, under the digest of what they are fitted to.
    """
    training = material.training
    stores = training.images, training.image_embeddings, training.text_embeddings
    chosen_on = validation_keys(training.images, training.left_out)
    digests = (each.digest for each in (*stores, chosen_on))
    fitted_to = digest_of(LINEAR_PRIORS_REVISION, *digests)
    folder = UPath(material.folder) / "linear_priors" / fitted_to
    try:
        return LinearPrior.load(folder / "ridge"), LinearPrior.load(folder / "contrastive")
    except CorgiError:  # not there yet, or damaged
        ridge = ridge_prior(*stores, material.mapped, training.left_out)
        contrastive = contrastive_prior(ridge, *stores)
        contrastive.save(folder / "contrastive")
        ridge.save(folder / "ridge")
        return ridge, contrastive
