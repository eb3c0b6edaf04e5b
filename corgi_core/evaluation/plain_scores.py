"""An evaluation's numbers by model, under plain names that are the same for every model.

A tracker of experiments compares runs by name: "cosine" of one prior beside "cosine" of another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from corgi_core.config import NO_SUBSET
from corgi_core.evaluation.report import SCORES, SHUFFLED, STRATA, TIMES
from corgi_core.metrics.bootstrap import CI_HIGH, CI_LOW

BY_STEPS = "_by_steps"  # the end of a curve's name
BY_TIMESTEP = "cosine_by_timestep"
BOUNDS = (CI_LOW, CI_HIGH)
PARTS = (*STRATA, SHUFFLED)  # dictionaries within scores
LEFT_OUT = (*TIMES, "count")
SHORTER = {"clip_similarity_text": "clip_similarity"}


def prior_scores(metrics: Mapping[str, Any], variant: str, subset: str) -> dict[str, float]:
    """A prior's final scores: at the protocol's number of sampling steps.

    Args:
        metrics: Those of an `Evaluation`.
        variant: The prior's.
        subset: Its caption subset.

    Returns:
        Those of test captions and of the pictures by their own names, "cosine" and "fid" among
        them; those of validation captions as "validation_cosine" and so on. A stratum, or
        "shuffled", and an interval's bound end the name: "recall_at_1_near_ci_low".
    """
    steps = str(metrics["protocol"]["prior_steps"])
    validation = _of(metrics.get("validation", {}).get("priors", {}), variant, subset)
    return {
        **plain(metrics["priors"][variant][subset][steps]),
        **{f"validation_{name}": value for name, value in plain(validation).items()},
        **plain(_of(metrics.get("pictures", {}), variant, subset)),
    }


def prior_curves(
    metrics: Mapping[str, Any], variant: str, subset: str
) -> Iterator[tuple[int, dict[str, float]]]:
    """A prior's test scores by number of sampling steps, as "cosine_by_steps" and so on.

    And "cosine_by_timestep", of the predictions on the way at the most steps, by timestep. Those of
    a stratum end with its name: "cosine_by_steps_far".
    """
    for steps, scores in metrics["priors"][variant][subset].items():
        yield int(steps), _of_strata(scores, {name: f"{name}{BY_STEPS}" for name in SCORES})
        for timestep, along in scores.get(BY_TIMESTEP, {}).items():
            yield int(timestep), _of_strata(along, {"cosine": BY_TIMESTEP})


def _of_strata(scores: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, float]:
    """Some scores by other names, of all images and of each stratum."""
    parts = {"": scores} | {f"_{each}": scores.get(each, {}) for each in STRATA}
    return {
        f"{named}{end}": part[name]
        for end, part in parts.items()
        for name, named in names.items()
        if name in part
    }


def baseline_scores(metrics: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The final scores of everything that is no prior, by its name: what priors are compared with.

    These are the evaluation's baselines, and embeddings that no prior sampled whose pictures were
    scored. A baseline of a prior has the prior's name in its own.
    """
    found: dict[str, dict[str, float]] = {}
    pictures = {k: v for k, v in metrics.get("pictures", {}).items() if k not in metrics["priors"]}
    for name, scores in (*_rows(metrics.get("baselines", {})), *_rows(pictures)):
        named = name.removesuffix(f" {NO_SUBSET}")
        found[named] = found.get(named, {}) | plain(scores)
    return found


def plain(scores: Mapping[str, Any]) -> dict[str, float]:
    """A dictionary's numbers by plain names, those of its parts too; counts and times left out."""
    numbers = {_shorter(k): v for k, v in scores.items() if _is_score(k, v)}
    for part in (each for each in PARTS if each in scores):
        for name, value in plain(scores[part]).items():
            base, bound = _split(name)
            numbers[f"{base}_{part}{bound}"] = value
    return numbers


def _is_score(name: str, value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and name not in LEFT_OUT


def _shorter(name: str) -> str:
    base, bound = _split(name)
    return SHORTER.get(base, base) + bound


def _split(name: str) -> tuple[str, str]:
    """A score's name, and the interval's bound at its end, or ""."""
    bound = next((end for end in BOUNDS if name.endswith(end)), "")
    return name.removesuffix(bound), bound


def _of(scores: Mapping[str, Any], variant: str, subset: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = scores.get(variant, {}).get(subset, {})
    return found


def _rows(nested: Mapping[str, Any], name: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The innermost dictionaries that hold scores, each with the names on the way to it."""
    for key, value in nested.items():
        if not isinstance(value, Mapping):
            continue
        named = f"{name} {key}".strip()
        if plain(value):
            yield named, value
        else:
            yield from _rows(value, named)
