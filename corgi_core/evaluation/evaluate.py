"""One evaluation of all priors, and of the decoder where there is one, under one protocol."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from corgi_core.config import EvaluationSettings
from corgi_core.data.arrays import ArrayStore
from corgi_core.decoders.decoder import Decoder
from corgi_core.devices import Device, computing_on
from corgi_core.encoders.clip import ClipEnsemble
from corgi_core.errors import CorgiError
from corgi_core.evaluation.picture_scores import PictureScorer, decode_and_score
from corgi_core.evaluation.prior_scores import Name, prior_scores, text_embedding_scores
from corgi_core.evaluation.report import Evaluation, cosine_curves
from corgi_core.io.pictures import labelled_grid
from corgi_core.metrics.inception import InceptionFeatures
from corgi_core.prior.model import PriorModel
from corgi_core.prior.task import Captions
from corgi_core.progress import report

REAL = "real embedding"


def evaluate(
    priors: Mapping[Name, PriorModel],
    decoder: Decoder,
    clip: ClipEnsemble,
    images: ArrayStore,
    texts: ArrayStore,
    pixels: ArrayStore,
    captions_of: Mapping[str, str],
    settings: EvaluationSettings,
    device: Device | None = None,
) -> Evaluation:
    """Scores of every prior on the held-out images, and of the pictures decoded for some of them.

    Every held-out image counts once, with the caption that stands for it (its first). The decoded
    images are the same for all priors: an evenly spaced `settings.images` of the held-out ones.

    Args:
        priors: The priors by (variant, caption subset).
        decoder: Decodes the real embeddings and those that the priors sample.
        clip: The encoder of the embeddings, for the decoded pictures' scores.
        images: Image embeddings, "image" [n, d].
        texts: Text embeddings and tokens, one row a caption.
        pixels: The images as squares, "pixels" uint8 [n, 3, s, s].
        captions_of: By key, the caption that stands for each held-out image, where it has one.
        settings: Numbers of sampling steps, images to decode, and the seed.
        device: Where the models compute, the priors one after the other; by default where they are.

    Returns:
        The numbers, a curve of the cosine over the sampling steps, and a picture grid for each
        caption subset.

    Raises:
        CorgiError: fewer than two held-out images have captions, the priors were made for different
            numbers of steps, or too few images are decoded for precision and recall.
    """
    started = time.perf_counter()
    held_out = _held_out(images, texts, captions_of)
    metrics = _prior_metrics(priors, held_out, texts.spec, settings, device)
    rows = evenly_spaced(len(held_out), settings.images)
    chosen_keys = texts.keys[texts.first_rows_among(captions_of)[rows]]
    real = torch.from_numpy(pixels.read("pixels")[pixels.rows_of(chosen_keys)]).float() / 255
    embeddings = {(REAL, "none"): held_out.image[rows]}
    for name, prior in priors.items():
        with computing_on(device, prior):
            embeddings[name] = _embeddings(prior, held_out, rows, settings)
    pictures: dict[Name, Tensor] = {}
    picture_scores: dict[str, dict[str, Any]] = {}
    with computing_on(device, clip, decoder):
        inception = None
        if settings.inception_weights:
            inception = InceptionFeatures(settings.inception_weights, clip.device)
        scorer = PictureScorer(clip, real, held_out.text[rows], inception)
        for done, ((variant, subset), z) in enumerate(embeddings.items(), start=1):
            decoded, scores = decode_and_score(decoder, z, scorer, settings.seed)
            pictures[variant, subset] = decoded
            picture_scores.setdefault(variant, {})[subset] = scores
            report("decoding held-out pictures", done, len(embeddings))

    metrics["protocol"] |= {
        "decoded_images": len(rows),
        "decoder_steps": decoder.settings.num_steps,
        "decoder_guidance": decoder.settings.guidance,
        "features": f"Inception {inception.digest}" if inception else "the preset's CLIP",
    }
    metrics["pictures"] = picture_scores
    metrics["wall_seconds"] = round(time.perf_counter() - started, 1)
    grids = _grids([captions_of[key] for key in chosen_keys], real, pictures, settings.grid_rows)
    return Evaluation(metrics, {"cosine_by_steps": cosine_curves(metrics), **grids})


def evaluate_priors(
    priors: Mapping[Name, PriorModel],
    images: ArrayStore,
    texts: ArrayStore,
    test_keys: Collection[str],
    settings: EvaluationSettings,
    device: Device | None = None,
) -> Evaluation:
    """Scores of every prior on the held-out images, where there is no decoder: see `evaluate`."""
    started = time.perf_counter()
    held_out = _held_out(images, texts, test_keys)
    metrics = _prior_metrics(priors, held_out, texts.spec, settings, device)
    metrics["wall_seconds"] = round(time.perf_counter() - started, 1)
    return Evaluation(metrics, {"cosine_by_steps": cosine_curves(metrics)})


def _held_out(images: ArrayStore, texts: ArrayStore, test_keys: Collection[str]) -> Captions:
    held_out = Captions.read(images, texts, set(test_keys), one_each=True)
    if len(held_out) < 2:
        raise CorgiError(
            f"{len(held_out)} held-out images with captions are too few to evaluate on",
            "ingest more captioned images, or raise test_fraction",
        )
    return held_out


def _prior_metrics(
    priors: Mapping[Name, PriorModel],
    held_out: Captions,
    encoders: dict[str, Any],
    settings: EvaluationSettings,
    device: Device | None,
) -> dict[str, Any]:
    """The protocol, the text embedding's scores, and every prior's by number of steps."""
    num_steps = _common_steps(priors)
    by_steps: dict[str, dict[str, Any]] = {}
    for (variant, subset), prior in priors.items():
        what = f"{variant} · {subset}"
        with computing_on(device, prior):
            scores = prior_scores(
                prior, held_out, sorted({*settings.steps, num_steps}), settings.seed, what
            )
        by_steps.setdefault(variant, {})[subset] = scores
    return {
        "protocol": {
            "held_out_captions": len(held_out),
            "prior_steps": num_steps,
            "prior_sampler": "ddpm",
            "prior_guidance": next(iter(priors.values())).settings.guidance,
            "seed": settings.seed,
            "encoders": list(encoders["names"]),
        },
        "text_embedding": text_embedding_scores(held_out, encoders),
        "priors": by_steps,
    }


def _common_steps(priors: Mapping[Name, PriorModel]) -> int:
    steps = {prior.settings.num_steps for prior in priors.values()}
    if len(steps) != 1:
        raise CorgiError(
            f"the priors were made for {sorted(steps)} sampling steps",
            "materialise all priors with the same preset before comparing them",
        )
    return steps.pop()


def _embeddings(
    prior: PriorModel, held_out: Captions, rows: np.ndarray, settings: EvaluationSettings
) -> Tensor:
    tokens, mask, text, _ = held_out.batch(torch.from_numpy(rows))
    return prior.sample(tokens, mask, text, seed=settings.seed).cpu()


def evenly_spaced(total: int, wanted: int) -> np.ndarray:
    """Rows 0 … total − 1, as many as wanted or as there are, the first and the last included."""
    return np.unique(np.linspace(0, total - 1, min(total, wanted)).round().astype(np.int64))


def _grids(
    captions: list[str], real: Tensor, pictures: Mapping[Name, Tensor], rows: int
) -> dict[str, Image.Image]:
    """One labelled grid a caption subset: caption · real · its embedding decoded · each prior."""
    chosen = evenly_spaced(len(captions), rows)
    subsets = dict.fromkeys(subset for variant, subset in pictures if variant != REAL)
    grids = {}
    for subset in subsets:
        columns = {"real image": real[chosen], REAL: pictures[REAL, "none"][chosen]}
        columns |= {v: decoded[chosen] for (v, s), decoded in pictures.items() if s == subset}
        grids[f"pictures_{subset.removesuffix('%')}_percent"] = labelled_grid(
            [captions[i] for i in chosen], columns
        )
    return grids
