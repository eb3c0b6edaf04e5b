"""The measurement: every decoder decodes every kind of embedding of the same held-out images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from corgi_core.config import NO_SUBSET, ComparisonSettings, EvaluationSettings
from corgi_core.data.dataset import sources_of
from corgi_core.data.splits import TEST
from corgi_core.evaluation.baselines import baseline_pictures, baselines
from corgi_core.evaluation.held_out import HeldOut, evenly_spaced
from corgi_core.evaluation.material import Material
from corgi_core.evaluation.picture_features import REAL, TEXT, Decoded, RealImages
from corgi_core.evaluation.picture_scores import picture_scorer
from corgi_core.evaluation.predictors import Predictor, samples_of
from corgi_core.evaluation.protocol import Protocol
from corgi_core.evaluation.report import (
    CONTRASTIVE_PRIOR,
    LINEAR_PRIOR,
    REAL_AGAINST_REAL,
    SHUFFLED,
    STRATA,
    by_stratum,
)
from corgi_core.evaluation.stored_models import StoredDecoder, StoredPrior
from corgi_core.evaluation.strata import near_training, of_strata
from corgi_core.evaluation.training_neighbours import training_neighbours
from corgi_core.io.pictures import labelled_grid
from corgi_core.prior.ridge import check_captions
from corgi_core.progress import track

REAL_IMAGES = "real images"  # as a row's decoder: images that exist, the held-out ones first

Row = dict[str, Any]
Name = tuple[str, str]  # a prior's variant and caption subset


@dataclass(frozen=True)
class Comparison:
    """What is compared under one name.

    Attributes:
        name: "supervision" or "language-free".
        decoders: The decoders by kind.
        priors: The priors that feed them, by variant and caption subset.
        source: Of the held-out images; None for all of them.
    """

    name: str
    decoders: Mapping[str, StoredDecoder]
    priors: Mapping[Name, StoredPrior]
    source: str | None = None


@dataclass(frozen=True)
class Decoding:
    """Pictures that are scored, and what a row says of them.

    Attributes:
        decoder: Its kind.
        source: REAL, TEXT or a prior's variant.
        captions: The subset that the source was trained on, or `NO_SUBSET`.
        pictures: The pictures.
    """

    decoder: str
    source: str
    captions: str
    pictures: Decoded

    @property
    def title(self) -> str:
        """The decoder and the source, with its caption subset if it has one."""
        source = self.source if self.captions == NO_SUBSET else f"{self.source} {self.captions}"
        return f"{self.decoder}, {source}"


@dataclass(frozen=True)
class Result:
    """A row of scores for each decoder, source of embeddings and seed, and a grid of images.

    And the protocol, without the steps and the guidance of the decoders, which are each one's own.
    """

    rows: list[Row]
    grid: Image.Image
    protocol: Protocol


def measure(
    comparison: Comparison,
    material: Material,
    settings: ComparisonSettings,
    strata: EvaluationSettings,
) -> Result:
    """Decode and score all embeddings by all decoders that are made for them.

    The real image's embedding and the caption's own go to all decoders, those of priors and of the
    linear priors to the decoders that were not trained on texts or pseudo texts. Every image counts
    once, with its first caption. Beside them are rows of real images, the nearest and random
    training images among them, and each caption's pictures beside other captions. Every score is
    there of the images with a near neighbour in training too ("…_near"), and of those without.

    Args:
        comparison: Decoders, priors and held-out images.
        material: CLIP, captions and pixels, training images, and where they are computed with.
        settings: Seeds, number of images, and rows of the grid.
        strata: Which training images are near.

    Raises:
        CorgiError: If fewer than two held-out images have captions, or no training or validation
            image has, which the linear priors need.
    """
    held_out = HeldOut.of(material.images, settings.images, comparison.source, material.left_out)
    check_captions(material.training.images)
    displayed = evenly_spaced(len(held_out), settings.grid_rows)
    material = replace(material, folder=material.folder / comparison.name)
    neighbours = training_neighbours(held_out, material)
    beside = baselines(held_out, material, neighbours, settings.seeds[0])
    size = max(each.settings.image_size for each in comparison.decoders.values())
    of_training = baseline_pictures(beside, np.arange(len(held_out)), material, size)
    decodings = [each for seed in settings.seeds for each in _decodings(comparison, beside, seed)]
    by_decoder = sorted((each.pictures for each in decodings), key=lambda p: p.decoder.digest)
    near = near_training(neighbours, strata)
    scorer = picture_scorer(
        material, held_out, displayed, (*of_training.values(), *by_decoder), near=near
    )

    about = {"comparison": comparison.name, "images": len(held_out)}
    real = {"": scorer.scores(scorer.real[size]), REAL_AGAINST_REAL: scorer.real_against_real(size)}
    real |= {name: scorer.scores(case) for (name, _), case in of_training.items()}
    rows: list[Row] = [
        {**about, "decoder": REAL_IMAGES, "source": name, "captions": "", "seed": seed}
        | _flat(scores)
        for name, scores in real.items()
        for seed in settings.seeds
    ]
    for row in rows:
        row.pop("seconds", None)  # nothing is decoded
    columns = {"real image": scorer.displayed(RealImages())}
    for each in track(decodings, f"{comparison.name}: scoring"):
        seed = each.pictures.seed
        case = {"decoder": each.decoder, "source": each.source, "captions": each.captions}
        scores = scorer.scores(each.pictures)
        scores["seconds"] /= len(held_out)
        control = scores.pop(SHUFFLED, None)
        rows.append({**about, **case, "seed": seed, **_flat(scores)})
        if control is not None:
            case["source"] = f"{each.source}, {SHUFFLED} captions"
            rows.append({**about, **case, "seed": seed, **_flat(control)})
        if seed == settings.seeds[0]:
            columns[each.title] = scorer.displayed(each.pictures)
    grid = labelled_grid([held_out.captions[row] for row in displayed], columns)
    protocol = _protocol(comparison, material, held_out, settings.seeds[0])
    return Result(rows, grid, replace(protocol, **of_strata(near, strata)))


def _flat(scores: Mapping[str, Any]) -> Row:
    """The scores, those of the strata by names that say which."""
    return {n: each for n, each in scores.items() if n not in STRATA} | by_stratum(scores)


def _protocol(comparison: Comparison, material: Material, held_out: HeldOut, seed: int) -> Protocol:
    """How the pictures are measured; the image size where all decoders have the same one."""
    spec, prior = material.text_embeddings.spec, next(iter(comparison.priors.values()), None)
    sizes = {each.settings.image_size for each in comparison.decoders.values()}
    counts = material.images.counts
    among = counts[(counts["split"] == TEST) & (counts["captioned"] > 0)]
    assert material.pixels is not None, "there are no images to compare pictures with"
    return Protocol(
        dataset=comparison.source or " + ".join(sorted(set(sources_of(among)))),
        data_version=material.images.digest,
        held_out_captions=len(held_out),
        prior_steps=prior.settings.num_steps if prior else None,
        prior_sampler=prior.settings.sampler if prior else None,
        prior_guidance=prior.settings.guidance if prior else None,
        seed=seed,
        encoders=tuple(spec["names"]),
        clip=spec["encoder"],
        decoded_images=len(held_out),
        image_size=sizes.pop() if len(sizes) == 1 else None,
        framing=material.pixels.spec.get("framing"),
        left_out=len(material.left_out) or None,
    )


def _decodings(
    comparison: Comparison, beside: Mapping[str, Predictor], seed: int
) -> Iterator[Decoding]:
    """Every source's embeddings by every decoder that is made for them."""
    sources: dict[Name, str | Predictor] = {(REAL, NO_SUBSET): REAL, (TEXT, NO_SUBSET): TEXT}
    sources |= {(name, NO_SUBSET): beside[name] for name in (LINEAR_PRIOR, CONTRASTIVE_PRIOR)}
    sources |= {name: samples_of(prior, seed) for name, prior in comparison.priors.items()}
    for (source, captions), embeddings in sources.items():
        for kind, decoder in comparison.decoders.items():
            if source in (REAL, TEXT) or decoder.input_kind != "text":
                yield Decoding(kind, source, captions, Decoded(decoder, embeddings, seed))
