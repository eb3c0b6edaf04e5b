"""The measurement: every decoder decodes every kind of embedding of the same held-out images."""

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
from corgi_core.devices import Device, computing_on
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
REAL_IMAGES = "real images"  # as a row's decoder: the held-out images themselves

Row = dict[str, Any]
Name = tuple[str, str]  # a prior's variant and caption subset


@dataclass(frozen=True)
class Comparison:
    """What is compared under one name.

    Attributes:
        name: "supervision" or "language-free".
        decoders: The decoders by kind.
        priors: The priors that feed them, by variant and caption subset.
        keys: Held-out images with captions.
    """

    name: str
    decoders: Mapping[str, Decoder]
    priors: Mapping[Name, PriorModel]
    keys: tuple[str, ...]


@dataclass(frozen=True)
class SharedInputs:
    """What all comparisons share.

    Attributes:
        clip: Embeds the decoded images.
        training: The training images, to find the nearest ones.
        texts: One caption or more an image; the first stands for the image.
        pixels: The images themselves.
        device: Where the models compute in their turns; by default where they are.
    """

    clip: ClipEnsemble
    training: TrainingImages
    texts: ArrayStore
    pixels: ArrayStore
    device: Device | None = None


@dataclass(frozen=True)
class Embeddings:
    """Embeddings z [n, d] of the held-out images or captions, and where they come from."""

    source: str  # REAL, TEXT or a prior's variant
    captions: str  # the subset that the source was trained on, or "none"
    z: Tensor

    @property
    def title(self) -> str:
        """The source, with its caption subset if it has one."""
        return self.source if self.captions == "none" else f"{self.source} {self.captions}"


@dataclass(frozen=True)
class Result:
    """A row of scores for each decoder, source of embeddings and seed; and a grid of images."""

    rows: list[Row]
    grid: Image.Image


def measure(comparison: Comparison, inputs: SharedInputs, settings: ComparisonSettings) -> Result:
    """Decode and score all embeddings by all decoders that are made for them.

    A caption's own embedding goes to the decoders that were trained on texts or pseudo texts, a
    prior's to the others, the real image's to all. Every image counts once, with its first caption.

    Args:
        comparison: Decoders, priors and held-out images.
        inputs: CLIP, training images, captions and pixels.
        settings: Seeds, number of images, and rows of the grid.

    Raises:
        CorgiError: If fewer than two held-out images have captions.
    """
    captions, keys = _captions(comparison, inputs, settings.images)
    real = _pixels(inputs, keys)
    about = {"comparison": comparison.name, "images": len(keys)}
    cases = [
        (seed, embeddings, kind, decoder)
        for seed in settings.seeds
        for embeddings in _embeddings(comparison, captions, seed, inputs.device)
        for kind, decoder in comparison.decoders.items()
        if _fits(embeddings, decoder)
    ]
    displayed = evenly_spaced(len(keys), settings.grid_rows)
    columns = {"real image": real[displayed]}
    with computing_on(inputs.device, inputs.clip):
        scorer = PictureScorer(inputs.clip, real, captions.text)
        own = {"decoder": REAL_IMAGES, "source": "", "captions": ""}
        own |= _scores(real, scorer, inputs)
        rows: list[Row] = [{**about, **own, "seed": seed} for seed in settings.seeds]
        for seed, found, kind, decoder in track(cases, f"{comparison.name}: decoding and scoring"):
            with computing_on(inputs.device, decoder):
                began = time.perf_counter()
                images = decoder.decode(found.z, seed=seed).cpu()
                seconds = (time.perf_counter() - began) / len(keys)
            case = {
                "decoder": kind, "source": found.source, "captions": found.captions, "seed": seed
            }  # fmt: skip
            scores = _scores(images, scorer, inputs)
            rows.append({**about, **case, **scores, "seconds": seconds})
            if seed == settings.seeds[0]:
                columns[f"{kind}, {found.title}"] = images[displayed]
    return Result(rows, labelled_grid(inputs.training.names(keys[displayed].tolist()), columns))


def _fits(embeddings: Embeddings, decoder: Decoder) -> bool:
    """Whether the decoder is made for embeddings of this source."""
    if embeddings.source == REAL:
        return True
    return (embeddings.source == TEXT) == (decoder.input_kind == "text")


def _embeddings(
    comparison: Comparison, captions: Captions, seed: int, device: Device | None
) -> Iterator[Embeddings]:
    yield Embeddings(REAL, "none", captions.image)
    yield Embeddings(TEXT, "none", captions.text)
    for (variant, subset), prior in comparison.priors.items():
        tokens, mask, text, _ = captions.batch(torch.arange(len(captions)))
        with computing_on(device, prior):
            z = prior.sample(tokens, mask, text, seed=seed).cpu()
        yield Embeddings(variant, subset, z)


def _scores(images: Tensor, scorer: PictureScorer, inputs: SharedInputs) -> Row:
    """The scorer's, and the distance (1 − cosine) of images to the nearest training image."""
    embeddings = scorer.embed(images)
    nearest = inputs.training.nearest(embeddings, 1).cosines.mean()
    return scorer.scores(images, embeddings) | {"nearest_distance": 1 - float(nearest)}


def _captions(
    comparison: Comparison, inputs: SharedInputs, count: int
) -> tuple[Captions, np.ndarray]:
    """The first captions of evenly spaced images of the comparison, and the images' keys."""
    keys = inputs.texts.keys[inputs.texts.first_rows_among(comparison.keys)]
    if len(keys) < 2:
        raise CorgiError(
            f"{len(keys)} held-out captions are too few to compare decoders on",
            "ingest more captioned images, or raise test_fraction",
        )
    spaced = evenly_spaced(len(keys), count)
    chosen = set(keys[spaced].tolist())
    captions = Captions.read(inputs.training.embeddings, inputs.texts, chosen, one_each=True)
    return captions, keys[spaced]


def _pixels(inputs: SharedInputs, keys: np.ndarray) -> Tensor:
    """The images as float32 [n, 3, s, s] in [0, 1]."""
    rows = inputs.pixels.rows_of(keys)
    return torch.from_numpy(inputs.pixels.read("pixels")[rows]).float() / 255
