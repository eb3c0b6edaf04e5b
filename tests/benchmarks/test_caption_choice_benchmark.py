"""The benchmark of caption choice: rules buy as many captions, and gains are paired by seed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.caption_choice import BUDGETS, FIRST, Pool, rounds_of
from benchmarks.caption_choice_steps.report import figure_of, tables_of
from corgi_core.data.caption_choice import RULES, UNCERTAINTY
from corgi_core.prior.task import Captions


class Noted:
    """Stands for a prior: notes whose captions it was trained on, and reaches only one side."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self.keys = keys

    def predicted(self, captions: Captions) -> torch.Tensor:
        raise NotImplementedError

    def reach(self, directions: np.ndarray) -> np.ndarray:
        return np.where(directions[:, 0] > 0, 1.0, -1.0).astype(np.float32)


@pytest.fixture(scope="module")
def pool() -> Pool:
    vectors = np.random.default_rng(0).normal(size=(3000, 8)).astype(np.float32)
    directions = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    keys = np.array([f"{number:04}" for number in range(3000)])
    return Pool(keys, directions, np.arange(3000) % 16)


def test_all_rules_begin_alike_and_buy_as_many(pool: Pool) -> None:
    first = []
    for rule in RULES:
        trained = list(rounds_of(pool, rule, 1, lambda keys, seed, name: Noted(keys)))
        assert [budget for budget, _ in trained] == list(BUDGETS)
        bought = [found.keys for _, found in trained]  # type: ignore[attr-defined]
        for budget, keys in zip(BUDGETS, bought, strict=True):
            assert len(set(keys)) == len(keys) == budget
        assert bought[2][: BUDGETS[1]] == bought[1]
        first.append(bought[0][:FIRST])
        if rule == UNCERTAINTY:  # all that were bought first are of the side that is not reached
            rows = np.searchsorted(pool.keys, bought[0][FIRST:])
            assert (pool.directions[rows, 0] <= 0).mean() > 0.95
    assert first[0] == first[1] == first[2]


def test_gains_are_paired_by_seed() -> None:
    rows = [
        {"model": "linear", "rule": rule, "captions": 120, "seed": seed, "cosine": seed + gain,
         "recall_at_1": seed + gain, "recall_at_5": 0.5}
        for rule, gain in zip(RULES, (0.25, -0.5, 0.0), strict=True)
        for seed in range(3)
    ]  # fmt: skip
    table = tables_of(pd.DataFrame(rows))
    assert "| 120 | coverage | +0.2500 ± 0.0000 | +0.2500 ± 0.0000 | +0.0000 ± 0.0000 |" in table
    assert "| 120 | uncertainty | -0.5000 ± 0.0000 |" in table
    assert "| 120 | random | 1.0000 ± 2.4841 |" in table  # t of 2 degrees of freedom, 4.3027 / √3
    assert figure_of(pd.DataFrame(rows)).width > 800
