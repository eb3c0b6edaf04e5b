"""An evaluation's final scores as rows of tables, baselines first, and the names of the scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from corgi_core.config import NO_SUBSET
from corgi_core.evaluation.plain_scores import BOUNDS, LEFT_OUT
from corgi_core.evaluation.report import BASELINES, SHUFFLED

BIAS = "_bias"  # the end of the name of a score's bias
DISTANCES = ("fid", "frechet_dinov2", "frechet_clip")  # the most independent judge's first


class Better(Enum):
    """Which of two values is the better one; DEPENDS says that neither is by itself."""

    HIGHER = "↑"
    LOWER = "↓"
    DEPENDS = ""


LABELS = {
    "cosine": ("cosine", Better.HIGHER),
    "recall_at_1": ("recall@1", Better.HIGHER),
    "recall_at_5": ("recall@5", Better.HIGHER),
    "fid": ("FID (Inception)", Better.LOWER),
    "kid": ("KID (Inception)", Better.LOWER),
    "frechet_dinov2": ("Fréchet (DINOv2)", Better.LOWER),
    "kid_dinov2": ("KID (DINOv2)", Better.LOWER),
    "frechet_clip": ("Fréchet (own CLIP)", Better.LOWER),
    "cmmd": ("CMMD (own CLIP)", Better.LOWER),
    "precision": ("precision", Better.HIGHER),
    "recall": ("recall", Better.HIGHER),
    "density": ("density", Better.HIGHER),
    "coverage": ("coverage", Better.HIGHER),
    "vendi": ("Vendi (own CLIP)", Better.DEPENDS),
    "clip_score": ("CLIP score (own CLIP)", Better.HIGHER),
    "clip_similarity_text": ("similarity to caption (own CLIP)", Better.HIGHER),
    "clip_similarity_image": ("similarity to image (own CLIP)", Better.HIGHER),
    "memorisation": ("memorisation, 0.5 is none", Better.DEPENDS),
    "copies": ("copies, 0.01 is none", Better.LOWER),
    "nearest_distance": ("distance to training", Better.DEPENDS),
}
"""How scores are called on pages, and which value is better. Independent judges stand before the
CLIP that the models are conditioned on."""


class Kind(Enum):
    """What a row is of."""

    BASELINE = "baseline"
    CONTROL = "control"  # a prior's samples, compared with the images of other captions
    PRIOR = "prior"


@dataclass(frozen=True)
class ScoreRow:
    """A row of a table.

    Attributes:
        name: Whose scores they are.
        kind: What that is.
        scores: As the evaluation's metrics have them.
    """

    name: str
    kind: Kind
    scores: Mapping[str, Any]

    def point(self, score: str) -> tuple[float, float, float] | None:
        """A score and the ends of its interval, which are the score where it has none."""
        value = self.scores.get(score)
        if not isinstance(value, int | float):
            return None
        low, high = (self.scores.get(score + bound, value) for bound in BOUNDS)
        return value, low, high


def prior_rows(metrics: Mapping[str, Any]) -> list[ScoreRow]:
    """The baselines, the controls and the priors, at the protocol's number of sampling steps."""
    steps = str(metrics["protocol"]["prior_steps"])
    final = {
        prior_name(variant, subset): by_steps[steps]
        for variant, subsets in metrics["priors"].items()
        for subset, by_steps in subsets.items()
    }
    beside = {name: metrics["baselines"][name] for name in BASELINES} | metrics["baselines"]
    return [
        *(ScoreRow(name, Kind.BASELINE, scores) for name, scores in beside.items()),
        *(
            _control(name, scores)
            for name, scores in (beside | final).items()
            if SHUFFLED in scores
        ),
        *(ScoreRow(name, Kind.PRIOR, scores) for name, scores in final.items()),
    ]


def _control(name: str, scores: Mapping[str, Any]) -> ScoreRow:
    """The row of the same samples, compared with the images of other captions."""
    return ScoreRow(f"{name}, {SHUFFLED} captions", Kind.CONTROL, scores[SHUFFLED])


def validation_rows(metrics: Mapping[str, Any]) -> list[ScoreRow]:
    """The priors on the images that they are chosen on; none where nothing is chosen."""
    priors = metrics.get("validation", {}).get("priors", {})
    return [
        ScoreRow(prior_name(variant, subset), Kind.PRIOR, scores)
        for variant, subsets in priors.items()
        for subset, scores in subsets.items()
    ]


def picture_rows(metrics: Mapping[str, Any]) -> list[ScoreRow]:
    """The sources of pictures: baselines, controls and priors; none without pictures.

    A control is of the same pictures, compared with other captions and their images.
    """
    baselines, controls, priors = list[ScoreRow](), list[ScoreRow](), list[ScoreRow]()
    for source, subsets in metrics.get("pictures", {}).items():
        is_prior = source in metrics["priors"]
        for subset, scores in subsets.items():
            name = prior_name(source, subset)
            kind = Kind.PRIOR if is_prior else Kind.BASELINE
            (priors if is_prior else baselines).append(ScoreRow(name, kind, scores))
            if SHUFFLED in scores:
                controls.append(_control(name, scores))
    return [*baselines, *controls, *priors]


def score_names(rows: list[ScoreRow]) -> list[str]:
    """The numbers that the rows have, those of `LABELS` first; no bounds, biases and counts."""
    found = dict.fromkeys(
        name
        for row in rows
        for name, value in row.scores.items()
        if isinstance(value, int | float)
        and name not in LEFT_OUT
        and not name.endswith((*BOUNDS, BIAS))
    )
    return [name for name in LABELS if name in found] + [n for n in found if n not in LABELS]


def label(score: str) -> str:
    """A score's name on pages."""
    return LABELS[score][0] if score in LABELS else score.replace("_", " ")


def better_side(score: str) -> Better:
    """Which of two values of a score is better."""
    return LABELS[score][1] if score in LABELS else Better.DEPENDS


def is_better(score: str, value: float, other: float) -> bool:
    """Whether a score's first value is the better one; False where that depends."""
    better = better_side(score)
    if better is Better.HIGHER:
        return value > other
    return better is Better.LOWER and value < other


def prior_name(variant: str, subset: str) -> str:
    """A prior's name on pages, or a source's of pictures."""
    return variant if subset == NO_SUBSET else f"{variant}, {subset}"
