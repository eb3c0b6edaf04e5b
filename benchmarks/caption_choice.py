"""Captions bought by coverage, uncertainty and at random: `python -m benchmarks.caption_choice`.

Each rule begins with the captions of the same 40 images, and buys more in rounds: 120 in all, then
360, then 1,080. After each round a prior is trained on what was bought, with the same budget for
all, and scored on held-out captions; the next round's uncertainty is that prior's. Two priors: the
linear one, with ten seeds, and a shifted one, with three; and the linear one once more in a skewed
pool, which has a tenth of the images of all but the four largest clusters. A seed decides the first
40, the choices, and the training. It needs a Parquet table of embeddings and captions.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from benchmarks.caption_choice_steps.data import Data, Keys, data_of
from benchmarks.caption_choice_steps.priors import Diffusion, Linear, Trained, captions_of
from benchmarks.caption_choice_steps.report import figure_of, tables_of
from corgi_core.config import PriorSettings, preset_named
from corgi_core.data.caption_choice import RULES, UNCERTAINTY, Candidates, choose
from corgi_core.data.splits import TEST, TRAIN, VALIDATION
from corgi_core.encoders.similarity import mean_encoder_cosine, recall_at
from corgi_core.gaussians.bank import GaussianBank
from corgi_core.gaussians.caption_candidates import directions_of, nearest_of
from corgi_core.gaussians.fit import fit_bank
from corgi_core.io.files import write_json
from corgi_core.metrics.retrieval import RECALL_RANKS

SKEWED = "linear, skewed"
FIRST, BUDGETS = 40, (120, 360, 1080)
SIZES = {TRAIN: 2000, VALIDATION: 400, TEST: 600}
SEEDS = {"linear": 10, SKEWED: 10, "shifted-k16": 3}
LARGEST, THINNED = 4, 10  # of a skewed pool: clusters that stay whole; one image in ten of others
GAUSSIANS = 16
TWINS = 0.96  # the presets' data.twin_cosine
Fit = Callable[[Keys, int, str], Trained]


@dataclass(frozen=True)
class Pool:
    """The images whose captions can be bought: keys [n], directions [n, d], Gaussians [n]."""

    keys: NDArray[np.str_]
    directions: NDArray[np.float32]
    gaussians: NDArray[np.int64]

    @classmethod
    def of(cls, data: Data) -> tuple[Pool, GaussianBank]:
        """The pool, and the bank that is fitted to it, captions or not."""
        dims = tuple(data.images.spec["encoder_dims"])
        rows = data.images.rows_of(data.pool)
        z = data.images.read("image")[rows].astype(np.float32)
        bank, _ = fit_bank(z, GAUSSIANS, dims)
        gaussians = bank.assign(torch.from_numpy(z)).numpy()
        return cls(np.array(data.pool), directions_of(z, dims), gaussians), bank

    def skewed(self) -> Pool:
        """The same with fewer images of all but the largest clusters."""
        whole = np.argsort(-np.bincount(self.gaussians, minlength=GAUSSIANS))[:LARGEST]
        chosen = np.isin(self.gaussians, whole) | (np.arange(len(self.keys)) % THINNED == 0)
        return Pool(self.keys[chosen], self.directions[chosen], self.gaussians[chosen])


def rounds_of(pool: Pool, rule: str, seed: int, fit: Fit) -> Iterator[tuple[int, Trained]]:
    """Each budget with the prior that was trained on the captions bought for it.

    Args:
        pool: Where captions are bought.
        rule: By which.
        seed: Of the first images and of the choices.
        fit: From keys, a seed and a name of the training to the trained prior.
    """
    count = len(pool.keys)
    bought = np.random.default_rng(seed).choice(count, FIRST, replace=False)
    trained: Trained | None = None
    for budget in BUDGETS:
        rest = np.setdiff1d(np.arange(count), bought)
        directions, reach = pool.directions[rest], None
        if rule == UNCERTAINTY:
            keys = tuple(pool.keys[bought].tolist())
            trained = trained or fit(keys, seed, f"{rule}-{FIRST}-{seed}")
            reach = trained.reach(directions)
        nearest = nearest_of(directions, pool.directions[bought])
        candidates = Candidates(pool.keys[rest], directions, nearest)
        wanted = budget - len(bought)
        choices = choose(candidates, wanted, rule, seed, reach=reach, twin_cosine=TWINS)
        bought = np.concatenate([bought, rest[[each.row for each in choices]]])
        keys = tuple(pool.keys[bought].tolist())
        trained = fit(keys, seed, f"{rule}-{budget}-{seed}")
        yield budget, trained


def fits_of(data: Data, bank: GaussianBank, folder: Path) -> dict[str, Fit]:
    """How each prior is trained, by its name."""

    def shifted(keys: Keys, seed: int, name: str) -> Trained:
        return Diffusion.of(data, keys, bank, small_prior(), seed, folder / name)

    def linear(keys: Keys, _seed: int, _name: str) -> Trained:
        return Linear.of(data, keys)

    return {"linear": linear, SKEWED: linear, "shifted-k16": shifted}


def small_prior() -> PriorSettings:
    """The preset's prior, smaller, and trained for seconds."""
    prior = preset_named("emoji").prior
    training = replace(
        prior.training, steps=100, batch_size=64, warmup_steps=20, ema_decay=0.95,
        checkpoint_every=100, evaluate_every=100,
    )  # fmt: skip
    return replace(prior, training=training)


def scores_of(trained: Trained, data: Data) -> dict[str, float]:
    """Cosine and recall on the test images' captions."""
    held_out, dims = captions_of(data, data.test), data.images.spec["encoder_dims"]
    predicted = trained.predicted(held_out)
    recalls = recall_at(predicted, held_out.image, RECALL_RANKS, dims)
    cosine = float(mean_encoder_cosine(predicted, held_out.image, dims).mean())
    return {"cosine": cosine} | {f"recall_at_{rank}": found for rank, found in recalls.items()}


def rows_of(data: Data, models: list[str], folder: Path) -> Iterator[dict[str, Any]]:
    """One row for each prior, rule, budget and seed, as soon as it is measured."""
    pool, bank = Pool.of(data)
    for model in models:
        fit = fits_of(data, bank, folder / "trainings")[model]
        among = pool.skewed() if model == SKEWED else pool
        for seed in range(SEEDS[model]):
            for rule in RULES:
                for budget, trained in rounds_of(among, rule, seed, fit):
                    about = {"model": model, "rule": rule, "captions": budget, "seed": seed}
                    yield about | scores_of(trained, data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("table", type=Path, help="Parquet: key, captions, lists of floats")
    parser.add_argument("--models", default=";".join(SEEDS), help="some of these")
    parser.add_argument("--folder", type=Path, help="where to compute, to go on from there later")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--figure", type=Path, help="write the figure to this file")
    asked = parser.parse_args()
    torch.set_num_threads(1)  # the same bits on any number of cores
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        data = data_of(asked.table, preset_named("embeddings"), SIZES, folder)
        rows = []
        for row in rows_of(data, asked.models.split(";"), folder):
            print(row, flush=True)
            rows.append(row)
            if asked.json:
                write_json(asked.json, rows)
    frame = pd.DataFrame(rows)
    print(tables_of(frame))
    if asked.figure:
        figure_of(frame).save(asked.figure)


if __name__ == "__main__":
    main()
