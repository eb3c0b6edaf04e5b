"""What an evaluation's numbers say, in sentences that are computed from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from corgi_core.evaluation.report import (
    CONTRASTIVE_PRIOR,
    LINEAR_PRIOR,
    REAL_AGAINST_REAL,
    REAL_EMBEDDING,
    SCORES,
    SHUFFLED,
    TRAINING_PICTURES,
)
from corgi_core.evaluation.score_rows import (
    BIAS,
    DISTANCES,
    Kind,
    ScoreRow,
    is_better,
    label,
    picture_rows,
    prior_rows,
    score_names,
    validation_rows,
)

FITTED_TO = dict.fromkeys((LINEAR_PRIOR, CONTRASTIVE_PRIOR), ", fitted to all captions")


def findings(metrics: Mapping[str, Any]) -> list[str]:
    """Sentences about the priors, then about the pictures.

    Which prior is best, which baselines are above it, what it takes from the caption, what of it
    holds far from the training images; and of pictures, in what each baseline is better than the
    decoder, and the Fréchet distances that so many pictures have where they differ in nothing.
    """
    best = _chosen(metrics)
    return [
        *_of_priors(metrics, best),
        *(_of_pictures(picture_rows(metrics), best) if metrics.get("pictures") else []),
    ]


def _chosen(metrics: Mapping[str, Any]) -> ScoreRow:
    """The prior with the highest validation cosine; of the highest test cosine without those."""
    priors = {row.name: row for row in prior_rows(metrics) if row.kind is Kind.PRIOR}
    candidates = validation_rows(metrics) or list(priors.values())
    return priors[max(candidates, key=lambda row: float(row.scores["cosine"])).name]


def _of_priors(metrics: Mapping[str, Any], best: ScoreRow) -> list[str]:
    rows = prior_rows(metrics)
    baselines = [row for row in rows if row.kind is Kind.BASELINE]
    how = "on the validation images" if validation_rows(metrics) else "on these images"
    found = [f"The prior with the highest cosine {how} is {best.name}."]
    for score in (name for name in SCORES if name in best.scores):
        value = best.scores[score]
        above = [
            f"{row.name} ({row.scores[score]:.4f}{FITTED_TO.get(row.name, '')})"
            for row in baselines
            if row.scores.get(score, value) > value
        ]
        above_it = f"above it: {_listed(above)}" if above else "no baseline is above it"
        found.append(f"Its {label(score)} is {value:.4f}; {above_it}.")
    control = best.scores[SHUFFLED]["cosine"]
    found.append(
        f"With the images of other captions its cosine is {control:.4f}: "
        f"{best.scores['cosine'] - control:.4f} is what it takes from the caption."
    )
    near, far = (best.scores.get(part, {}) for part in ("near", "far"))
    if near.get("count") and far.get("count"):
        found.append(
            f"{near['count']:,} of {near['count'] + far['count']:,} test images have a near "
            f"neighbour in training. Its cosine is {near['cosine']:.4f} on them and "
            f"{far['cosine']:.4f} on the others."
        )
    return found


def _of_pictures(rows: Sequence[ScoreRow], best: ScoreRow) -> list[str]:
    rows = [row for row in rows if row.name != REAL_AGAINST_REAL]  # no pictures of a model
    by_name = {row.name: row for row in rows}
    names = score_names(list(rows))
    decoded = [by_name[name] for name in (best.name, REAL_EMBEDDING) if name in by_name]
    found = []
    for baseline in (row for row in rows if row.kind is Kind.BASELINE):
        for ours in decoded:
            if ours.name == REAL_EMBEDDING and baseline.name not in TRAINING_PICTURES:
                continue  # the decoder's limit, compared with pictures that no decoder made
            if ours is not baseline and ours.scores.get("count") == baseline.scores.get("count"):
                found.append(_compared(baseline, ours, names))
    for name in names:
        biased = [row for row in rows if name in DISTANCES and name + BIAS in row.scores]
        if biased:
            largest = max(row.scores[name + BIAS] for row in biased)
            found.append(
                f"{label(name)}: sets of so many pictures that differ in nothing are about "
                f"{largest:.4g} apart (the bias, an estimate): distances of that size say little."
            )
    return found


def _compared(baseline: ScoreRow, ours: ScoreRow, names: Sequence[str]) -> str:
    """In what a baseline's pictures are better than the decoder's."""
    both = [name for name in names if name in baseline.scores and name in ours.scores]
    better = [
        label(name).partition(",")[0]
        for name in both
        if is_better(name, baseline.scores[name], ours.scores[name])
    ]
    what = f"better in {_listed(better)}" if better else "better in nothing"
    return f"Pictures: {baseline.name}, compared with the decoder's of {ours.name}, is {what}."


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + (" and " if len(words) > 1 else "") + words[-1]
