"""Means over seeds with their 95 % intervals (Student's t), and differences paired by seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

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
    rows = rows.dropna(subset=[metric])
    twice = rows.duplicated([*by, "seed"])
    assert not twice.any(), f"several rows of one seed: {rows[twice].iloc[0].to_dict()}"
    summary = rows.groupby(list(by), sort=False)[metric].agg(list).reset_index()
    pairs = [mean_and_half_width(values) for values in summary.pop(metric)]
    summary[MEAN], summary[HALF] = zip(*pairs, strict=True) if pairs else ((), ())
    return summary


def paired(
    rows: pd.DataFrame, others: pd.DataFrame, by: Sequence[str], metric: str
) -> pd.DataFrame:
    """As `over_seeds`, of the differences rows − others, matched by `by` and seed.

    Two arms of one seed share initial weights, batches and noise, so their difference has a far
    narrower interval than either.
    """
    both = rows.merge(others, on=[*by, "seed"], suffixes=("", "_other"))
    both[metric] = both[metric] - both[f"{metric}_other"]
    return over_seeds(both, by, metric)
