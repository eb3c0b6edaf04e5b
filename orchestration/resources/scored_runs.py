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
            those of its protocol that differ from it in the seed alone.

    Raises:
        CorgiError: there is no such run, it has no scores of captions, or MLflow does not answer.
    """
    from mlflow.exceptions import MlflowException

    client = mlflow.client()
    try:
        runs = _runs(client, mlflow.experiment, word)
    except MlflowException as error:
        raise CorgiError(
            f"the MLflow store {mlflow.tracking_uri} does not answer ({error})",
            "start it (`corgi ui`), or unset MLFLOW_TRACKING_URI",
        ) from error
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
        if _but_for_seed(run) == _but_for_seed(scored[0]):  # the protocol among it
            by_seed.setdefault(int(run.data.params.get("seed", 0)), run)
    every = list(by_seed.values())
    shared = set.intersection(*(set(run.data.metrics) for run in every))
    means = {name: sum(run.data.metrics[name] for run in every) / len(every) for name in shared}
    scores = {seed: _read(client, run.info.run_id) for seed, run in sorted(by_seed.items())}
    return ScoredModel(scored[0].info.run_name, scores, means)


def _runs(client: MlflowClient, experiment: str, word: str) -> list[Run]:
    """The run of an id, or all of a name in an experiment, the newest first; makes nothing."""
    from mlflow.exceptions import MlflowException

    if RUN_ID.fullmatch(word):
        try:
            return [client.get_run(word)]
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return []
            raise
    there = client.get_experiment_by_name(experiment)
    if there is None or "'" in word:
        return []
    return list(client.search_runs([there.experiment_id], f"attributes.run_name = '{word}'"))


def _but_for_seed(run: Run) -> dict[str, str]:
    labels = {name: value for name, value in run.data.params.items() if name != "seed"}
    return labels | {PROTOCOL_TAG: run.data.tags[PROTOCOL_TAG]}


def _read(client: MlflowClient, run_id: str) -> CaptionScores:
    from corgi_core.evaluation.paired import CaptionScores

    with tempfile.TemporaryDirectory() as temporary:
        return CaptionScores.load(Path(client.download_artifacts(run_id, SCORES_FOLDER, temporary)))
