"""Every decoder draws held-out captions from every embedding; their pictures are judged alike."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from corgi_core.config import ComparisonSettings
from corgi_core.data.arrays import ArrayStore
from corgi_core.decoders.decoder import Decoder
from corgi_core.encoders.clip import ClipEnsemble
from corgi_core.errors import CorgiError
from corgi_core.evaluation.evaluate import evenly_spaced
from corgi_core.evaluation.nearest import TrainingImages
from corgi_core.evaluation.picture_scores import PictureScorer
from corgi_core.io.pictures import labelled_grid
from corgi_core.prior.model import PriorModel
from corgi_core.prior.task import Captions
from corgi_core.progress import track

REAL, TEXT = "real", "text"  # the image's own embedding, the caption's
PICTURES = "real pictures"  # in a decoder's place: the held-out images as they are

Row = dict[str, Any]
Name = tuple[str, str]  # a prior's variant and caption subset


@dataclass(frozen=True)
class Contest:
    """What is compared under one name: decoders by kind, fed by priors, on held-out images."""

    name: str
    decoders: Mapping[str, Decoder]
    priors: Mapping[Name, PriorModel]
    keys: tuple[str, ...]  # held-out images with captions


@dataclass(frozen=True)
class Material:
    """What all contests share. `texts` holds one caption or more an image; all are drawn."""

    clip: ClipEnsemble
    training: TrainingImages
    texts: ArrayStore
    pixels: ArrayStore


@dataclass(frozen=True)
class Embeddings:
    """Embeddings z [n, d] of the drawn captions, and where they come from."""

    source: str  # REAL, TEXT or a prior's variant
    captions: str  # the subset that the source learned from, or "none"
    z: Tensor

    @property
    def title(self) -> str:
        return self.source if self.captions == "none" else f"{self.source} {self.captions}"


@dataclass(frozen=True)
class Result:
    """A row a decoder, embedding and seed with its scores; and pictures to look at."""

    rows: list[Row]
    grid: Image.Image


def held(contest: Contest, material: Material, settings: ComparisonSettings) -> Result:
    """Draw and judge everything.

    An embedding goes to the decoders that take its kind: a caption's own embedding to those that
    were trained on texts or pseudo texts, a prior's to the others, the real image's to all.
    """
    captions, keys = _captions(contest, material, settings.images)
    real = _pictures(material, keys)
    judge = PictureScorer(material.clip, real, captions.text)
    about = {"contest": contest.name, "images": len(keys)}
    cases = [
        (seed, found, kind, decoder)
        for seed in settings.seeds
        for found in _embeddings(contest, captions, seed)
        for kind, decoder in contest.decoders.items()
        if found.source == REAL or (found.source == TEXT) == (decoder.input_kind == "text")
    ]
    shown = evenly_spaced(len(keys), settings.grid_rows)
    own = {"decoder": PICTURES, "source": "", "captions": "", **_scores(real, judge, material)}
    rows: list[Row] = [{**about, **own, "seed": seed} for seed in settings.seeds]
    columns = {"real picture": real[shown]}
    for seed, found, kind, decoder in track(cases, f"{contest.name}: drawing and judging"):
        began = time.perf_counter()
        pictures = decoder.decode(found.z, seed=seed)
        seconds = time.perf_counter() - began
        case = {"decoder": kind, "source": found.source, "captions": found.captions, "seed": seed}
        rows.append(
            {**about, **case, **_scores(pictures, judge, material), "seconds": seconds / len(keys)}
        )
        if seed == settings.seeds[0]:
            columns[f"{kind}, {found.title}"] = pictures[shown]
    grid = labelled_grid(material.training.names(keys[shown].tolist()), columns)
    return Result(rows, grid)


def _embeddings(contest: Contest, captions: Captions, seed: int) -> Iterator[Embeddings]:
    yield Embeddings(REAL, "none", captions.image)
    yield Embeddings(TEXT, "none", captions.text)
    for (variant, subset), prior in contest.priors.items():
        tokens, mask, text, _ = captions.batch(torch.arange(len(captions)))
        yield Embeddings(variant, subset, prior.sample(tokens, mask, text, seed=seed))


def _scores(pictures: Tensor, judge: PictureScorer, material: Material) -> Row:
    """The judge's, and how far pictures are from the nearest training image (1 − cosine)."""
    embeddings = judge.embed(pictures)
    nearest = material.training.nearest(embeddings, 1).cosines.mean()
    return judge.scores(pictures, embeddings) | {"nearest_distance": 1 - float(nearest)}


def _captions(contest: Contest, material: Material, most: int) -> tuple[Captions, np.ndarray]:
    """Evenly spaced captions of the contest's images, and the images' keys."""
    rows = material.texts.rows_among(set(contest.keys))
    if len(rows) < 2:
        raise CorgiError(
            f"{len(rows)} held-out captions are too few to compare decoders on",
            "ingest more captioned images, or raise test_fraction",
        )
    spaced = evenly_spaced(len(rows), most)
    every = Captions.read(material.training.embeddings, material.texts, set(contest.keys))
    chosen = Captions(
        *(part[spaced] for part in (every.tokens, every.mask, every.text, every.image))
    )
    return chosen, material.texts.keys[rows[spaced]]


def _pictures(material: Material, keys: np.ndarray) -> Tensor:
    rows = material.pixels.rows_of(keys)
    return torch.from_numpy(material.pixels.read("pixels")[rows]).float() / 255
