"""The measurement: every decoder decodes every kind of embedding of the same held-out images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from corgi_core.config import NO_SUBSET, ComparisonSettings
from corgi_core.evaluation.held_out import HeldOut, evenly_spaced
from corgi_core.evaluation.material import Material
from corgi_core.evaluation.picture_features import REAL, TEXT, Decoded, RealImages
from corgi_core.evaluation.picture_scores import picture_scorer
from corgi_core.evaluation.predictors import Predictor, samples_of
from corgi_core.evaluation.stored_models import StoredDecoder, StoredPrior
from corgi_core.io.pictures import labelled_grid
from corgi_core.progress import track

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
    """A row of scores for each decoder, source of embeddings and seed; and a grid of images."""

    rows: list[Row]
    grid: Image.Image


def measure(
    comparison: Comparison,
    material: Material,
    settings: ComparisonSettings,
) -> Result:
    """Decode and score all embeddings by all decoders that are made for them.

    A caption's own embedding goes to the decoders that were trained on texts or pseudo texts, a
    prior's to the others, the real image's to all. Every image counts once, with its first caption.

    Args:
        comparison: Decoders, priors and held-out images.
        material: CLIP, captions and pixels, training images, and where they are computed with.
        settings: Seeds, number of images, and rows of the grid.

    Raises:
        CorgiError: If fewer than two held-out images have captions.
    """
    held_out = HeldOut.of(material.images, settings.images, comparison.source, material.left_out)
    displayed = evenly_spaced(len(held_out), settings.grid_rows)
    decodings = [each for seed in settings.seeds for each in _decodings(comparison, seed)]
    by_decoder = sorted((each.pictures for each in decodings), key=lambda p: p.decoder.digest)
    material = replace(material, folder=material.folder / comparison.name)
    scorer = picture_scorer(material, held_out, displayed, tuple(by_decoder))

    about = {"comparison": comparison.name, "images": len(held_out)}
    own = {"decoder": REAL_IMAGES, "source": "", "captions": ""}
    own |= scorer.scores(RealImages())
    del own["seconds"]  # nothing is decoded
    rows: list[Row] = [{**about, **own, "seed": seed} for seed in settings.seeds]
    columns = {"real image": scorer.displayed(RealImages())}
    for each in track(decodings, f"{comparison.name}: scoring"):
        seed = each.pictures.seed
        case = {"decoder": each.decoder, "source": each.source, "captions": each.captions}
        scores = scorer.scores(each.pictures)
        scores["seconds"] /= len(held_out)
        rows.append({**about, **case, "seed": seed, **scores})
        if seed == settings.seeds[0]:
            columns[each.title] = scorer.displayed(each.pictures)
    return Result(rows, labelled_grid([held_out.captions[row] for row in displayed], columns))


def _decodings(comparison: Comparison, seed: int) -> Iterator[Decoding]:
    """Every source's embeddings by every decoder that is made for them."""
    sources: dict[Name, str | Predictor] = {(REAL, NO_SUBSET): REAL, (TEXT, NO_SUBSET): TEXT}
    sources |= {name: samples_of(prior, seed) for name, prior in comparison.priors.items()}
    for (source, captions), embeddings in sources.items():
        for kind, decoder in comparison.decoders.items():
            if source == REAL or (source == TEXT) == (decoder.input_kind == "text"):
                yield Decoding(kind, source, captions, Decoded(decoder, embeddings, seed))
