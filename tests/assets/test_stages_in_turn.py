"""A cascade's stages are trained in turn; a killed process finds the finished ones again."""

import multiprocessing
import os
import signal
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dagster as dg
import mlflow
import pytest
from torch import Tensor, nn

from assets.metadata import trainings_metadata
from assets.versions import decided_by, settled
from corgi_core.decoders.cascade.task import CascadeTask
from corgi_core.errors import CorgiError
from corgi_core.training.randomness import StepRandom
from orchestration.resources.compute import Compute
from orchestration.resources.tracking import MLflow
from orchestration.resources.trainer import Plan, Trainer, joint_card
from orchestration.resources.workspace import Workspace
from orchestration.settings import Settings
from tests.helpers.cascades import TINY_CASCADE, a_cascade_task, trained_cascade

pytestmark = pytest.mark.integration  # trains, and starts a process

STEPS, KILLED_AT = 6, 3
TRAINING = replace(TINY_CASCADE.training, steps=STEPS, checkpoint_every=2, evaluate_every=STEPS)


@dataclass
class Watched(CascadeTask):
    """Writes down every step, and may kill its process in the second stage."""

    steps_file: Path = field(kw_only=True, compare=False)
    killed: bool = field(default=False, kw_only=True, compare=False)

    def loss(self, model: nn.Module, batch: Any, random: StepRandom) -> dict[str, Tensor]:
        if self.killed and (self.stage, random.step) == (1, KILLED_AT):
            os.kill(os.getpid(), signal.SIGKILL)
        with self.steps_file.open("a") as file:
            file.write(f"{self.stage}:{random.step} ")
        return super().loss(model, batch, random)


def a_task(folder: Path, killed: bool = False, **changes: object) -> Watched:
    task = a_cascade_task(folder)
    stages = (TINY_CASCADE.stages[0], replace(TINY_CASCADE.stages[1], **changes))
    settings = replace(TINY_CASCADE, training=TRAINING, stages=stages)
    return Watched(
        settings, task.pixels, task.embeddings, task.train_keys, task.validation_keys,
        steps_file=folder / "steps", killed=killed,
    )  # fmt: skip


def trained(
    home: Path, task: Watched
) -> tuple[str, dict[str, object], dict[str, object], list[str]]:
    """(digest of the decoder, its card, Dagster's metadata, log) of materialising it in `home`."""
    settings = Settings.from_environment({"CORGI_HOME": str(home)})
    trainer = Trainer(
        workspace=Workspace.of(settings),
        compute=Compute(num_workers=0),
        mlflow=MLflow.of(settings),
    )
    found = []

    @dg.asset(metadata=decided_by("decoders", revision=1))
    def model(context: dg.AssetExecutionContext, trainer: Trainer) -> None:
        plans = {part: Plan(each, each.training_settings) for part, each in task.parts().items()}
        done = trainer.train_in_turn(context, plans, "decoder-cascade", {}, {})
        decoder = task.assembled([each.model for each in done.values()], joint_card(done))
        found.append((decoder.digest, decoder.card, trainings_metadata(done)))

    with dg.DagsterInstance.ephemeral() as instance:
        asset = settled(model, settings.preset)
        result = dg.materialize([asset], resources={"trainer": trainer}, instance=instance)
        said = [entry.user_message for entry in instance.all_logs(result.run_id)]
    return *found[0], said


def test_a_kill_in_the_second_stage_repeats_nothing_of_the_first(tmp_path: Path) -> None:
    task = a_task(tmp_path / "data")
    killed = replace(task, killed=True)
    child = multiprocessing.get_context("fork").Process(
        target=trained, args=(tmp_path / "killed", killed)
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    first = [f"0:{step}" for step in range(STEPS)]
    assert task.steps_file.read_text().split() == [*first, "1:0", "1:1", "1:2"]
    digest, card, metadata, said = trained(tmp_path / "killed", task)
    # from the checkpoint after two steps of the second stage
    assert task.steps_file.read_text().split()[STEPS + 3 :] == ["1:2", "1:3", "1:4", "1:5"]
    assert digest == trained_cascade(task, tmp_path / "straight").digest
    assert {name.partition("/")[0] for name in card["metrics"]} == {"stage-8", "stage-16"}
    assert metadata["stage-8/steps"] == metadata["stage-16/steps"] == STEPS

    store = mlflow.MlflowClient(f"sqlite:///{tmp_path}/killed/mlflow/mlflow.db")
    experiment = store.get_experiment_by_name("emoji")
    runs = store.search_runs([experiment.experiment_id])
    trained_runs = [run for run in runs if "dagster.asset" in run.data.tags]
    names = {run.info.run_id: run.info.run_name for run in runs}
    above = {
        run.info.run_name: names[run.data.tags["mlflow.parentRunId"]].partition("-")[0]
        for run in trained_runs
    }
    assert above == {
        "decoder-cascade": "refresh", "decoder-cascade-stage-8": "decoder",
        "decoder-cascade-stage-16": "decoder",
    }  # fmt: skip
    assert {run.info.status for run in trained_runs} == {"FINISHED"}
    whole = next(run for run in trained_runs if run.info.run_name == "decoder-cascade")
    assert whole.data.tags["corgi.identity"] == card["training"]  # where scores are added
    assert whole.data.metrics == pytest.approx(card["metrics"])

    (line,) = [line for line in said if line.startswith("decoder-cascade-stage-16: step")]
    part = next(run for run in trained_runs if run.info.run_name == "decoder-cascade-stage-16")
    assert "step 4 of 6, loss 0." in line  # what the killed process logged is not said again
    assert f"/runs/{part.info.run_id}" in line


def test_a_batch_of_a_later_stage_is_checked_before_the_first_is_trained(tmp_path: Path) -> None:
    task = a_task(tmp_path / "data", accumulation=3)
    with pytest.raises(CorgiError, match="a batch of 16 cannot be divided"):
        trained(tmp_path / "home", task)
    assert not task.steps_file.exists()
