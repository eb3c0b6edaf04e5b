"""Whether one model is better than another: differences on the same captions, with intervals.

What is stored of a model under a protocol is a score for every caption. Two models meet the same
captions, so the bootstrap resamples captions for both at once: a hard caption is hard for both, and
the interval of the difference is far narrower than either model's own (Efron and Tibshirani, 1993,
chapter 8). Where a model was trained with several seeds, the seeds are resampled too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from corgi_core.errors import CorgiError
from corgi_core.evaluation.protocol import Protocol
from corgi_core.evaluation.report import STRATA
from corgi_core.io.files import atomic_file, read_json, write_json
from corgi_core.io.pictures import rendered
from corgi_core.metrics.bootstrap import CONFIDENCE, middle, resamples
from corgi_core.metrics.retrieval import recalls

if TYPE_CHECKING:
    import pandas as pd

CAPTIONS, PROTOCOL = "captions.parquet", "protocol.json"
PANELS = 3  # of a chart, side by side: as many as there are scores; each stratum has a line


@dataclass(frozen=True)
class CaptionScores:
    """One model's scores, caption by caption, and the protocol that they were measured under.

    Attributes:
        captions: A row a caption: "key", "cosine", "rank", that of the true image from 1, and where
            it is known "near", whether the image has a near neighbour in training.
        protocol: What they depend on beside the model.
    """

    captions: pd.DataFrame
    protocol: Protocol

    def save(self, folder: Path) -> None:
        """Write `captions.parquet`, and `protocol.json` without what concerns pictures."""
        with atomic_file(folder / CAPTIONS) as temporary:
            self.captions.to_parquet(temporary, index=False)
        write_json(folder / PROTOCOL, self.protocol.without_pictures.stored)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        import pandas as pd

        protocol = Protocol.stored_in({"protocol": read_json(folder / PROTOCOL)})
        return cls(pd.read_parquet(folder / CAPTIONS), protocol)

    @property
    def scores(self) -> dict[str, NDArray[np.float64]]:
        """Each score by its name in runs, caption by caption [n]."""
        found = recalls(self.captions["rank"].to_numpy() - 1)
        return {
            "cosine": self.captions["cosine"].to_numpy(dtype=np.float64),
            **{name: each.astype(np.float64) for name, each in found.items()},
        }

    @property
    def strata(self) -> dict[str, NDArray[np.bool_]]:
        """Which captions [n] are of which stratum; none where it is not known."""
        if "near" not in self.captions:
            return {}
        near = self.captions["near"].to_numpy(dtype=bool)
        return dict(zip(STRATA, (near, ~near), strict=True))


@dataclass(frozen=True)
class Difference:
    """How much higher model b scores than model a.

    Attributes:
        score: Its name; a stratum's ends with that, "cosine_far".
        a: The mean of the first model.
        b: The mean of the second.
        low: The low end of the interval of b − a, which has 95 % unless another was asked for.
        high: The high end.
    """

    score: str
    a: float
    b: float
    low: float
    high: float

    @property
    def value(self) -> float:
        """The mean of b − a."""
        return self.b - self.a


def differences(
    a: Mapping[int, CaptionScores],
    b: Mapping[int, CaptionScores],
    names: tuple[str, str],
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> list[Difference]:
    """Differences of two models in every score.

    Args:
        a: The first model's scores by the seed that it was trained with.
        b: The second's.
        names: The models', for errors.
        seed: Of the resamples.
        confidence: Of the intervals; higher where the best of several models is compared.

    Returns:
        One for each score, b − a, then those of the strata of two captions or more, where they are
        known.

    Raises:
        CorgiError: they were measured under different protocols, or on different captions.
    """
    every = [*a.values(), *b.values()]
    for one in every:
        _check_comparable(every[0], one, names)
    parts = {"": np.ones(len(every[0].captions), dtype=bool)}
    parts |= {f"_{stratum}": rows for stratum, rows in every[0].strata.items() if rows.sum() > 1}
    found = list[Difference]()
    for end, rows in parts.items():
        first, second = (
            {number: np.stack(list(one.scores.values()))[:, rows] for number, one in each.items()}
            for each in (a, b)
        )
        ends = middle(_resampled_differences(first, second, seed), confidence).T.tolist()
        means = (np.mean(list(each.values()), axis=(0, 2)).tolist() for each in (first, second))
        found += [
            Difference(f"{score}{end}", of_a, of_b, low, high)
            for score, of_a, of_b, (low, high) in zip(every[0].scores, *means, ends, strict=True)
        ]
    return found


def _resampled_differences(
    a: Mapping[int, NDArray[np.float64]], b: Mapping[int, NDArray[np.float64]], seed: int
) -> list[NDArray[np.float64]]:
    """Means of b − a, [r, m] each, of models with scores [m, n] of n captions by training seed.

    Where both have the same seeds, a resample has the same seeds of both.
    """
    random = np.random.default_rng((seed, 1))  # apart from the captions'
    first, second = (np.stack([each[number] for number in sorted(each)]) for each in (a, b))
    found = list[NDArray[np.float64]]()
    for captions in resamples(first.shape[2], seed):
        of_a = _resampled_seeds(len(captions), len(first), random)
        same = a.keys() == b.keys()
        of_b = of_a if same else _resampled_seeds(len(captions), len(second), random)
        found.append(_weighted(second, of_b, captions) - _weighted(first, of_a, captions))
    return found


def _weighted(
    scores: NDArray[np.float64], seeds: NDArray[np.float64], captions: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Means [r, m] of scores [s, m, n], under r weights of the seeds [r, s] and captions [r, n]."""
    by_seed = np.stack([captions @ each.T for each in scores])
    means: NDArray[np.float64] = np.einsum("rs,srm->rm", seeds, by_seed)
    return means


def _resampled_seeds(times: int, count: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Weights of the seeds in some resamples, [times, count]."""
    return random.multinomial(count, np.full(count, 1 / count), times) / count


def _check_comparable(a: CaptionScores, b: CaptionScores, names: tuple[str, str]) -> None:
    first, second = names
    try:
        a.protocol.check_comparable(b.protocol)
    except CorgiError as error:
        raise CorgiError(f"{first} and {second}: {error.problem}", error.remedy) from error
    if a.captions["key"].tolist() != b.captions["key"].tolist():
        raise CorgiError(
            f"{first} and {second} were scored on different captions",
            "evaluate both on the same version of the data",
        )


def difference_chart(compared: Mapping[str, list[Difference]], reference: str) -> Image.Image:
    """A panel for each score: the other models' differences to the reference, with intervals.

    The strata are below, a line each.
    """
    from matplotlib.figure import Figure

    names, scores = list(compared), [each.score for each in next(iter(compared.values()))]
    lines = -(-len(scores) // PANELS)
    size = (3.4 * PANELS, (1.2 + 0.4 * len(names)) * lines)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(lines, PANELS, sharey=True, squeeze=False)
    for panel, score in zip(panels.flat, scores, strict=True):
        for row, name in enumerate(names):
            (found,) = (each for each in compared[name] if each.score == score)
            panel.plot([found.low, found.high], [row, row], color="tab:blue")
            panel.plot([found.value], [row], "o", color="tab:blue")
        panel.axvline(0, color="grey", linestyle="--", linewidth=1)
        panel.set_title(score)
        panel.set_xlabel(f"difference to {reference}", fontsize=8)
        panel.locator_params(axis="x", nbins=4)
    panels.flat[0].set_yticks(range(len(names)), names)
    panels.flat[0].set_ylim(len(names) - 0.5, -0.5)
    return rendered(figure)
