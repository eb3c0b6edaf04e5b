"""Evaluations in the tests: models in folders, jobs in this process, and the plain computation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from corgi_core.data.array_jobs import ArrayJob
from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import write_dataset
from corgi_core.data.pixels import pixels
from corgi_core.data.shards import Sample
from corgi_core.decoders.decoder import Decoder
from corgi_core.encoders.clip import ClipEnsemble
from corgi_core.encoders.embed import embed_images, embed_texts
from corgi_core.encoders.similarity import cosine_by_encoder, mean_encoder_cosine, recall_at
from corgi_core.evaluation.material import Material
from corgi_core.evaluation.stored_models import StoredDecoder, StoredPrior
from corgi_core.metrics.cmmd import cmmd
from corgi_core.metrics.memorisation import memorisation
from corgi_core.metrics.precision_recall import Manifold, between
from corgi_core.pipeline import CorgiPipeline
from corgi_core.prior.model import PriorModel
from tests.helpers.picture_metrics import frechet, share_inside
from tests.helpers.tiny_pipeline import SIDE, png

HELD_OUT, VALIDATION, TWINS = 12, 4, 2


@dataclass(frozen=True)
class Models:
    """What is evaluated, in its folders."""

    prior: StoredPrior
    decoder: StoredDecoder
    clip: Path


def caption(image: int, number: int) -> str:
    """The captions of an image say different things."""
    words = ("a red apple", "seven engines under water", "no", "music for a queen", "x y z")
    return f"{words[number]}, {words[(image + number) % 5]} {image}"


def in_this_process(job: ArrayJob, folder: Path) -> ArrayStore:
    """Computes a job's arrays by one thread."""
    return job.run(folder, "cpu", threads=1)


def stored_prior(prior: PriorModel, folder: Path) -> StoredPrior:
    """A prior, saved."""
    prior.save(folder)
    return StoredPrior.load(folder)


def stored_decoder(decoder: Decoder, folder: Path) -> StoredDecoder:
    """A decoder, saved."""
    decoder.save(folder)
    return StoredDecoder.load(folder)


def saved_models(pipeline: CorgiPipeline, folder: Path) -> Models:
    """A pipeline's models, saved."""
    pipeline.clip.save(folder / "clip")
    return Models(
        stored_prior(pipeline.prior, folder / "prior"),
        stored_decoder(pipeline.decoder, folder / "decoder"),
        folder / "clip",
    )


def held_out_material(
    pipeline: CorgiPipeline, models: Models, folder: Path, captions: int
) -> Material:
    """Twelve test images with so many captions each, four for validation, two for training.

    Those for training are the first two test images once more.
    """
    splits = ["test"] * HELD_OUT + ["validation"] * VALIDATION + ["train"] * TWINS
    samples = [
        Sample(
            f"key{n:02}", png(n % (HELD_OUT + VALIDATION)),
            [caption(n, c) for c in range(captions)], split, "made", f"key{n}",
        )
        for n, split in enumerate(splits)
    ]  # fmt: skip
    dataset = write_dataset(folder / "images", samples, shard_size=5)
    return Material(
        dataset,
        embed_images(pipeline.clip, dataset, None, folder / "image"),
        embed_texts(pipeline.clip, pipeline.tokens, dataset, folder / "text"),
        folder / "chunks",
        in_this_process,
        pixels(dataset, folder / "pixels", SIDE),
        models.clip,
    )


def numbers(scores: Any) -> Any:
    """Scores without wall times, which differ from one run to the next."""
    if isinstance(scores, Mapping):
        return {k: numbers(v) for k, v in scores.items() if k not in ("seconds", "wall_seconds")}
    return scores


def without_intervals(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Scores, and those of their parts, without the ends of their intervals."""
    return {
        name: without_intervals(each) if isinstance(each, Mapping) else each
        for name, each in scores.items()
        if "_ci_" not in name
    }


def embedding_scores(
    predicted: Tensor, true: Tensor, encoder_dims: Sequence[int], names: Sequence[str]
) -> dict[str, Any]:
    """Scores of embeddings [n, d] with everything in memory, as they were before chunks."""
    by_encoder = cosine_by_encoder(predicted, true, encoder_dims).mean(dim=0).tolist()
    images, own = torch.unique(true, dim=0, return_inverse=True)
    recalls = recall_at(predicted, images, (1, 5), encoder_dims, own)
    return {
        "cosine": sum(by_encoder) / len(by_encoder),
        "cosine_by_encoder": dict(zip(names, by_encoder, strict=True)),
        **{f"recall_at_{rank}": value for rank, value in recalls.items()},
        "count": len(predicted),
    }


def picture_scores(
    clip: ClipEnsemble, pictures: Tensor, real: Tensor, text: Tensor, training: Tensor
) -> dict[str, Any]:
    """Scores of pictures [n, 3, h, w] with everything in memory, as they were before chunks.

    `training`: embeddings [m, d] of the training images.
    """
    z, z_real = clip.encode_images(pictures), clip.encode_images(real)
    features, of_real = (np.asarray(F.normalize(each, dim=1)) for each in (z, z_real))
    dims = clip.encoder_dims
    distance = frechet(features, of_real)
    quarters = np.array_split(np.random.default_rng(0).permutation(len(pictures)), 4)
    near, near_real = (
        torch.stack([mean_encoder_cosine(one, training, dims).max() for one in each])
        for each in (z, z_real)
    )
    to_text = mean_encoder_cosine(z, text, dims)
    entropy, parts = _entropy(features), np.array_split(np.concatenate(quarters), 8)
    left_out = [_entropy(np.delete(features, part, axis=0)) for part in parts]
    dense = between(Manifold.of(of_real), Manifold.of(features))
    return {
        "frechet_clip": distance,
        "frechet_clip_bias": (_bias(features[quarters]) * _bias(of_real[quarters])) ** 0.5,
        "cmmd": cmmd(of_real, features).value,
        "vendi": np.exp(entropy),
        "vendi_bias": np.exp(entropy) - np.exp(8 * entropy - 7 * np.mean(left_out)),
        "precision": share_inside(features, of_real),
        "recall": share_inside(of_real, features),
        "density": dense.density,
        "coverage": dense.coverage,
        **memorisation(near.numpy(), near_real.numpy())._asdict(),
        "nearest_distance": 1 - float(near.mean()),
        "clip_similarity_image": float(mean_encoder_cosine(z, z_real, dims).mean()),
        "clip_similarity_text": float(to_text.mean()),
        "clip_score": 100 * float(to_text.clamp(min=0).mean()),
        "count": len(pictures),
    }


def _entropy(features: np.ndarray) -> float:
    """Of the eigenvalues of the mean outer product of features [n, d] of norm 1."""
    shares = np.linalg.eigvalsh(features.astype(np.float64).T @ features / len(features))
    shares = shares[shares > 1e-12]
    return float(-(shares * np.log(shares)).sum())


def _bias(quarters: np.ndarray) -> float:
    """Of a set's quarters [4, n, d]: the distance of halves, squared, by that of quarters."""
    of_halves = frechet(np.concatenate(quarters[:2]), np.concatenate(quarters[2:]))
    return of_halves**2 / np.mean([frechet(*quarters[:2]), frechet(*quarters[2:])])
