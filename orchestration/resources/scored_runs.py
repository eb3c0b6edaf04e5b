"""Runs of MLflow's as models with scores: found by their names, read caption by caption."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from corgi_core.errors import CorgiError
from orchestration.resources.run_messages import PROTOCOL_TAG, SCORES_FOLDER

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from corgi_core.evaluation.paired import CaptionScores
    from orchestration.resources.tracking import MLflow

RUN_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class ScoredModel:
    """A model, trained once or with several seeds.

    Attributes:
        name: Of its runs.
        by_seed: Its scores, caption by caption, by training seed.
        metrics: Means over the seeds of the numbers that all its runs have.
    """

    name: str
    by_seed: Mapping[int, CaptionScores]
    metrics: Mapping[str, float]


def scored_model(mlflow: MLflow, word: str) -> ScoredModel:
    """The model of a run.

    Args:
        mlflow: Where the runs are.
        word: A run's id; or a name, which stands for the newest scored run that has it, and for
            those that differ from it in the seed alone.

    Raises:
        CorgiError: there is no such run, or it has no scores of captions.
    """
    client = mlflow.client()
    if RUN_ID.fullmatch(word):
        runs = [client.get_run(word)]
    else:
        named = f"attributes.run_name = '{word}'" if "'" not in word else "attributes.run_id = ''"
        runs = list(client.search_runs([mlflow.experiment_id()], named))
    scored = [run for run in runs if PROTOCOL_TAG in run.data.tags]
    if not scored:
        raise CorgiError(
            f"MLflow has no run {word!r} with scores of captions in the experiment "
            f"{mlflow.experiment}",
            "give the name or the id of a prior's or a baseline's run, as MLflow shows it "
            "(`corgi ui`); `corgi run` evaluates what is not evaluated yet",
        )
    by_seed: dict[int, Run] = {}
    for run in scored:  # the newest first
        if _but_for_seed(run) == _but_for_seed(scored[0]):
            by_seed.setdefault(int(run.data.params.get("seed", 0)), run)
    every = list(by_seed.values())
    shared = set.intersection(*(set(run.data.metrics) for run in every))
    means = {name: sum(run.data.metrics[name] for run in every) / len(every) for name in shared}
    scores = {seed: _read(client, run.info.run_id) for seed, run in sorted(by_seed.items())}
    return ScoredModel(scored[0].info.run_name, scores, means)


def _but_for_seed(run: Run) -> dict[str, str]:
    return {name: value for name, value in run.data.params.items() if name != "seed"}


def _read(client: MlflowClient, run_id: str) -> CaptionScores:
    from corgi_core.evaluation.paired import CaptionScores

    with tempfile.TemporaryDirectory() as temporary:
        return CaptionScores.load(Path(client.download_artifacts(run_id, SCORES_FOLDER, temporary)))
