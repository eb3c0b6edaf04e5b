"""Means over seeds with their 95 % intervals (Student's t), and differences paired by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

CONFIDENCE = 0.95
MEAN, HALF = "mean", "half"


def mean_and_half_width(values: Sequence[float]) -> tuple[float, float]:
    """x̄ and t_{0.975, n−1} · s/√n of n values; the half-width of one value is unknown: nan."""
    from scipy.special import stdtrit

    n = len(values)
    if n < 2:
        return float(np.mean(values)), float("nan")
    quantile = stdtrit(n - 1, (1 + CONFIDENCE) / 2)
    return float(np.mean(values)), float(quantile * np.std(values, ddof=1) / n**0.5)


def over_seeds(rows: pd.DataFrame, by: Sequence[str], metric: str) -> pd.DataFrame:
    """Columns `by`, mean and half: one row a group, its seeds summarised, in order of appearance.

    Rows without the metric are left out. No group may contain a seed twice.
    """
    return _summary(_values(rows, by, metric), by)


def paired(
    rows: pd.DataFrame, others: pd.DataFrame, by: Sequence[str], metric: str
) -> pd.DataFrame:
    """As `over_seeds`, of the differences rows − others, matched by `by` and seed.

    Two arms of one seed share initial weights, batches and noise, so their difference has a far
    narrower interval than either.
    """
    ones, twos = (_values(each, by, metric) for each in (rows, others))
    differences = {
        group: {seed: value - twos[group][seed] for seed, value in seeds.items()
                if seed in twos[group]}
        for group, seeds in ones.items() if group in twos
    }  # fmt: skip
    return _summary({group: seeds for group, seeds in differences.items() if seeds}, by)


def _values(
    rows: pd.DataFrame, by: Sequence[str], metric: str
) -> dict[tuple[Any, ...], dict[Any, float]]:
    """The metric by group and seed; of rows that have it and all of the group's columns.

    Tables have thousands of cells, each of a few rows: plain dictionaries take a tenth of the time
    that pandas takes to group so few.
    """
    found: dict[tuple[Any, ...], dict[Any, float]] = {}
    columns = (rows[name].tolist() for name in (*by, "seed", metric))
    for *group, seed, value in zip(*columns, strict=True):
        if any(each is None or each != each for each in (*group, value)):  # NaN
            continue
        seeds = found.setdefault(tuple(group), {})
        assert seed not in seeds, f"several rows of one seed: {group}, seed {seed}, {metric}"
        seeds[seed] = value
    return found


def _summary(
    values: Mapping[tuple[Any, ...], Mapping[Any, float]], by: Sequence[str]
) -> pd.DataFrame:
    import pandas as pd

    lines = [
        (*group, *mean_and_half_width(list(seeds.values()))) for group, seeds in values.items()
    ]
    return pd.DataFrame(lines, columns=[*by, MEAN, HALF])
