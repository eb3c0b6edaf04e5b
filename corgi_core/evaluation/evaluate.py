"""One evaluation of all priors, and of the decoder where there is one, under one protocol.

What is computed for a caption is stored in chunks, so a killed evaluation goes on, and another one
computes what is new.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from corgi_core.config import NO_SUBSET, EvaluationSettings
from corgi_core.data.dataset import sources_of
from corgi_core.data.splits import TEST, VALIDATION
from corgi_core.errors import CorgiError
from corgi_core.evaluation.baselines import (
    baseline_decodings,
    baseline_pictures,
    baselines,
    validation_baselines,
)
from corgi_core.evaluation.held_out import Chunks, HeldOut, evenly_spaced
from corgi_core.evaluation.material import Material
from corgi_core.evaluation.other_priors import other_priors
from corgi_core.evaluation.picture_features import (
    REAL,
    Decoded,
    RealImages,
    StoredPictures,
    inception_digest,
)
from corgi_core.evaluation.picture_scores import picture_scorer
from corgi_core.evaluation.plain_scores import BY_TIMESTEP
from corgi_core.evaluation.predictors import ONCE, Predictor, PriorSamples, samples_of
from corgi_core.evaluation.prior_scores import (
    Name,
    PredictionScores,
    caption_scores,
    cosine_by_timestep,
    scores_of,
)
from corgi_core.evaluation.protocol import Protocol
from corgi_core.evaluation.published_captions import check_captions_file
from corgi_core.evaluation.report import (
    REAL_AGAINST_REAL,
    REAL_EMBEDDING,
    SHUFFLED,
    Evaluation,
    Samples,
    cosine_curves,
)
from corgi_core.evaluation.seed_grids import seed_grids
from corgi_core.evaluation.stored_models import StoredDecoder, StoredPrior
from corgi_core.evaluation.strata import near_training, of_strata
from corgi_core.evaluation.timestep_curves import timestep_curves
from corgi_core.evaluation.training_neighbours import training_neighbours
from corgi_core.io.pictures import labelled_grid, picture
from corgi_core.metrics.dinov2 import dinov2_digest
from corgi_core.prior.ridge import check_captions

if TYPE_CHECKING:
    import pandas as pd

REAL_IMAGE = "real image"
SCORED_AT_ONCE = 512  # captions whose scores are stored at once


def evaluate(
    priors: Mapping[Name, StoredPrior],
    decoder: StoredDecoder | None,
    material: Material,
    settings: EvaluationSettings,
    champions: Sequence[StoredPrior] = (),
) -> Evaluation:
    """Scores of every prior on the test images, and of the pictures decoded for some of them.

    Every image counts once, with the caption that stands for it (its first). The decoded
    images are the same for all priors: an evenly spaced `settings.images` of the held-out ones.

    Args:
        priors: The priors by (variant, caption subset).
        decoder: Decodes the real embeddings and those that the priors sample; without it there are
            no pictures.
        material: The held-out images and captions, and where they are computed with.
        settings: Numbers of sampling steps, of captions and of images to decode, and the seed.
        champions: Priors of the same encoders that others are to replace; they are scored on the
            validation images alone, sampled from as the priors are.

    Returns:
        The numbers, a curve of the cosine over the sampling steps, and a picture grid for each
        caption subset.

    Raises:
        CorgiError: fewer than two held-out images have captions, or no training or validation
            image, which the linear priors need; the captions are not those of
            `settings.captions_file`, or this is another file than it has to be; the priors were
            made for different numbers of steps, or too few images are decoded for precision and
            recall.
    """
    started = time.perf_counter()
    held_out = HeldOut.of(material.images, settings.captions, left_out=material.left_out)
    captions_file = _of_captions_file(held_out, settings)
    check_captions(material.training.images)
    chosen_on: HeldOut | None = None
    validation: pd.DataFrame | None = None
    if material.trained_here:
        chosen_on = HeldOut.of(
            material.images, settings.captions, left_out=material.left_out, split=VALIDATION
        )
    others = other_priors(settings.other_priors, material.encoder_dims, settings.seed)
    neighbours = training_neighbours(held_out, material)
    near = near_training(neighbours, settings) if material.trained_here else None
    beside = baselines(held_out, material, neighbours, settings.seed) | others
    metrics, by_caption = _prior_metrics(priors, beside, held_out, near, material, settings)
    metrics["protocol"] |= captions_file
    if chosen_on is not None:
        metrics["validation"], validation = _validation_metrics(
            priors, champions, chosen_on, material, settings
        )
    grids: dict[str, Image.Image] = {}
    samples: Samples = {}
    by_seed: dict[int, Samples] = {}
    if decoder is not None:
        rows, size = evenly_spaced(len(held_out), settings.images), decoder.settings.image_size
        chosen = held_out.taken(rows)
        displayed = evenly_spaced(len(chosen), settings.grid_rows)
        cases = _decoded(priors, decoder, settings.seed)
        guided = _guided(cases, settings.guidances)
        without_prior: dict[Name, Decoded | StoredPictures] = {
            **baseline_pictures(beside, rows, material, size),
            **baseline_decodings(beside, decoder, settings.seed),
        }
        scorer = picture_scorer(
            material, chosen, displayed,
            (*without_prior.values(), *cases.values(), *guided.values()),
            settings.inception_weights, settings.dinov2_weights,
            None if near is None else near[rows],
        )  # fmt: skip
        metrics["protocol"] |= _of_pictures(material, decoder, len(chosen), settings)
        metrics["pictures"] = {REAL_AGAINST_REAL: {NO_SUBSET: scorer.real_against_real(size)}}
        for (variant, subset), case in (without_prior | cases).items():
            metrics["pictures"].setdefault(variant, {})[subset] = scorer.scores(case)
        for (guidance, (variant, subset)), case in guided.items():
            by_source = metrics.setdefault("guidances", {}).setdefault(f"{guidance:g}", {})
            by_source.setdefault(variant, {})[subset] = scorer.scores(case)
        columns = {name: scorer.displayed(case) for name, case in cases.items()}
        captions = [chosen.captions[row] for row in displayed]
        real = scorer.displayed(RealImages())
        grids = _grids(captions, real, columns)
        of_baselines = {name: scorer.displayed(case) for name, case in without_prior.items()}
        every = {(REAL_IMAGE, NO_SUBSET): real} | of_baselines | columns
        samples = {
            name: [(c, picture(p)) for c, p in zip(captions, column, strict=True)]
            for name, column in every.items()
        }
        further = range(settings.seed + 1, settings.seed + settings.grid_seeds)
        by_seed = seed_grids(priors, decoder, chosen.taken(displayed), further, material)
    metrics["protocol_digest"] = Protocol.stored_in(metrics).digest
    metrics["wall_seconds"] = round(time.perf_counter() - started, 1)
    curves = {"cosine_by_steps": cosine_curves(metrics), BY_TIMESTEP: timestep_curves(metrics)}
    pictures = curves | grids
    return Evaluation(metrics, pictures, samples, by_seed, by_caption, validation)


def _prior_metrics(
    priors: Mapping[Name, StoredPrior],
    beside: Mapping[str, Predictor],
    held_out: HeldOut,
    near: NDArray[np.bool_] | None,
    material: Material,
    settings: EvaluationSettings,
) -> tuple[dict[str, Any], dict[Name, pd.DataFrame]]:
    """The protocol, the baselines' scores, and every prior's by number of steps.

    At the preset's number of steps each prior has its control, "shuffled", too, as other people's
    priors have; at the most steps its cosine by timestep. The second value is
    `caption_scores` of each prior, at that number, and of each baseline.
    """
    num_steps, names = _common_steps(priors), material.text_embeddings.spec["names"]
    steps = tuple(sorted({*settings.steps, num_steps}))
    cases = {n: PriorSamples(p, steps, settings.seed, along=True) for n, p in priors.items()}
    chunks = Chunks[Predictor](held_out, (*beside.values(), *cases.values()), SCORED_AT_ONCE)
    job = PredictionScores(
        chunks, material.image_embeddings, material.text_embeddings, material.precision
    )
    store = material.run(job, material.folder / "scores")
    by_steps: dict[str, dict[str, Any]] = {}
    for (variant, subset), case in cases.items():
        shards = chunks.shards_of(case)
        scores = {str(count): scores_of(store, shards, str(count), names, near) for count in steps}
        scores[str(num_steps)][SHUFFLED] = scores_of(store, shards, SHUFFLED, names, near)
        most = str(steps[-1])
        scores[most][BY_TIMESTEP] = cosine_by_timestep(store, shards, most, near)
        by_steps.setdefault(variant, {})[subset] = scores
    by_caption = {
        name: caption_scores(store, chunks.shards_of(case), str(num_steps), near)
        for name, case in cases.items()
    } | {
        (name, NO_SUBSET): caption_scores(store, chunks.shards_of(case), ONCE, near)
        for name, case in beside.items()
    }
    metrics = {
        "protocol": _of_priors(material, len(held_out), priors, settings)
        | ({} if near is None else of_strata(near, settings)),
        "baselines": {
            name: scores_of(store, chunks.shards_of(case), ONCE, names, near)
            | (
                {SHUFFLED: scores_of(store, chunks.shards_of(case), SHUFFLED, names, near)}
                if case.controlled
                else {}
            )
            for name, case in beside.items()
        },
        "priors": by_steps,
    }
    return metrics, by_caption


def _of_priors(
    material: Material, count: int, priors: Mapping[Name, StoredPrior], settings: EvaluationSettings
) -> dict[str, Any]:
    """The protocol without strata and pictures."""
    counts, spec = material.images.counts, material.text_embeddings.spec
    evaluated = counts[(counts["split"] == TEST) & (counts["captioned"] > 0)]
    of_prior = next(iter(priors.values())).settings
    return Protocol(
        dataset=" + ".join(sorted(set(sources_of(evaluated)))),
        data_version=material.images.digest,
        held_out_captions=count,
        prior_steps=_common_steps(priors),
        prior_sampler=of_prior.sampler,
        prior_guidance=of_prior.guidance,
        seed=settings.seed,
        encoders=tuple(spec["names"]),
        clip=spec["encoder"],
        is_zero_shot=not material.trained_here,
        left_out=len(material.left_out) or None,
    ).stored


def _of_captions_file(held_out: HeldOut, settings: EvaluationSettings) -> dict[str, Any]:
    """The protocol's field of the captions' file, which is checked."""
    if settings.captions_file is None:
        return {}
    path, sha256 = Path(settings.captions_file), settings.captions_sha256
    return {"captions_file": check_captions_file(path, sha256, held_out)}


def _validation_metrics(
    priors: Mapping[Name, StoredPrior],
    champions: Sequence[StoredPrior],
    captions: HeldOut,
    material: Material,
    settings: EvaluationSettings,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Scores on the validation images, at the priors' own number of steps alone.

    Of every prior, of the champions (sampled from as the priors are, whatever their own settings
    say), and of the baselines that know no more than they. The second value has them caption by
    caption, as `Evaluation.validation`.
    """
    import pandas as pd

    steps, names = _common_steps(priors), material.text_embeddings.spec["names"]
    cases = {name: PriorSamples(prior, (steps,), settings.seed) for name, prior in priors.items()}
    own = next(iter(priors.values())).settings
    evaluated = {prior.digest for prior in priors.values()}
    earlier = {
        prior.digest: PriorSamples(prior, (steps,), settings.seed, own.sampler, own.guidance)
        for prior in champions
        if prior.digest not in evaluated
    }
    beside = validation_baselines(captions, material)
    every: tuple[Predictor, ...] = (*cases.values(), *earlier.values(), *beside.values())
    chunks = Chunks[Predictor](captions, every, SCORED_AT_ONCE)
    job = PredictionScores(
        chunks, material.image_embeddings, material.text_embeddings, material.precision
    )
    store = material.run(job, material.folder / "validation_scores")

    def means(case: Predictor, name: str) -> dict[str, Any]:
        return scores_of(store, chunks.shards_of(case), name, names)

    scores: dict[str, dict[str, Any]] = {}
    for (variant, subset), case in cases.items():
        scores.setdefault(variant, {})[subset] = means(case, str(steps))
    metrics = {
        "captions": len(captions),
        "priors": scores,
        "champions": {digest: means(case, str(steps)) for digest, case in earlier.items()},
        "baselines": {name: means(case, ONCE) for name, case in beside.items()},
    }
    sampled = {case.prior.digest: case for case in (*cases.values(), *earlier.values())}
    named: dict[str, tuple[Predictor, str]] = {
        **{model: (case, str(steps)) for model, case in sampled.items()},
        **{model: (case, ONCE) for model, case in beside.items()},
    }
    by_caption = [
        caption_scores(store, chunks.shards_of(case), name).assign(model=model)
        for model, (case, name) in named.items()
    ]
    return metrics, pd.concat(by_caption, ignore_index=True)


def _common_steps(priors: Mapping[Name, StoredPrior]) -> int:
    steps = {prior.settings.num_steps for prior in priors.values()}
    if len(steps) != 1:
        raise CorgiError(
            f"the priors were made for {sorted(steps)} sampling steps",
            "materialise all priors with the same preset before comparing them",
        )
    return steps.pop()


def _decoded(
    priors: Mapping[Name, StoredPrior], decoder: StoredDecoder, seed: int
) -> dict[Name, Decoded]:
    """The pictures of the real embeddings and of every prior's."""
    cases = {(REAL_EMBEDDING, NO_SUBSET): Decoded(decoder, REAL, seed)}
    return cases | {
        n: Decoded(decoder, samples_of(prior, seed), seed) for n, prior in priors.items()
    }


def _guided(
    cases: Mapping[Name, Decoded], guidances: Sequence[float]
) -> dict[tuple[float, Name], Decoded]:
    """The same pictures with each guidance of the decoder; its own is not decoded twice."""
    return {
        (guidance, name): case
        if guidance == case.decoder.settings.guidance
        else replace(case, guidance=guidance)
        for guidance in guidances
        for name, case in cases.items()
    }


def _of_pictures(
    material: Material, decoder: StoredDecoder, count: int, settings: EvaluationSettings
) -> dict[str, Any]:
    """The protocol's fields of `count` decoded pictures."""
    assert material.pixels is not None, "there are no images to compare pictures with"
    spec, dinov2 = material.pixels.spec, settings.dinov2_weights
    found = {
        "decoded_images": count,
        "decoder_steps": decoder.settings.num_steps,
        "decoder_guidance": decoder.settings.guidance,
        "image_size": decoder.settings.image_size,
        "framing": spec.get("framing"),
        "inception": inception_digest(settings.inception_weights),
        "dinov2": dinov2_digest(dinov2) if dinov2 else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _grids(
    captions: list[str], real: Tensor, pictures: Mapping[Name, Tensor]
) -> dict[str, Image.Image]:
    """One labelled grid a caption subset: caption · real · its embedding decoded · each prior."""
    subsets = dict.fromkeys(subset for variant, subset in pictures if variant != REAL_EMBEDDING)
    grids = {}
    for subset in subsets:
        columns = {REAL_IMAGE: real, REAL_EMBEDDING: pictures[REAL_EMBEDDING, NO_SUBSET]}
        columns |= {variant: decoded for (variant, s), decoded in pictures.items() if s == subset}
        name = f"pictures_{subset.removesuffix('%')}_percent"
        grids[name] = labelled_grid(captions, columns)
    return grids
