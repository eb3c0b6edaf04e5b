"""A training inside an asset: its folder belongs to a task, its data, settings and code."""

from pathlib import Path

import dagster as dg

from assets.metadata import training_metadata
from assets.versions import decided_by, settled
from orchestration.resources.compute import Compute
from orchestration.resources.tracking import MLflow
from orchestration.resources.trainer import Trainer
from orchestration.resources.workspace import Workspace
from orchestration.settings import Settings
from tests.helpers.tiny import SETTINGS, TinyTask


def test_another_revision_of_the_code_trains_anew(tmp_path: Path) -> None:
    settings = Settings.from_environment({"CORGI_HOME": str(tmp_path), "CORGI_MLFLOW_PORT": "5999"})
    mlflow = MLflow.of(settings)
    mlflow.experiment_id()  # makes the database, for which a run's page waits some seconds only
    trainer = Trainer(
        workspace=Workspace.of(settings), compute=Compute(num_workers=0), mlflow=mlflow
    )

    def trained(revision: int) -> tuple[str, str]:
        """(the run's page, the training's identity) of materialising the asset."""
        cards = []

        @dg.asset(metadata=decided_by("prior", revision=revision))
        def model(
            context: dg.AssetExecutionContext, trainer: Trainer
        ) -> dg.MaterializeResult[None]:
            done = trainer.train(context, TinyTask(), SETTINGS, "tiny", {}, {})
            cards.append(done.card["training"])
            return dg.MaterializeResult(metadata=training_metadata(done))

        (event,) = dg.materialize(
            [settled(model, settings.preset)], resources={"trainer": trainer}
        ).asset_materializations_for_node("model")
        return str(event.metadata["mlflow_run"].value), cards[0]

    pages, identities = zip(*(trained(revision) for revision in (1, 1, 2)), strict=True)
    assert identities[0] == identities[1] != identities[2]
    assert pages[0] == pages[1] != pages[2]
    assert pages[0].startswith("http://127.0.0.1:5999/")
    folders = {path.name for path in (settings.work / "model").iterdir()}
    assert folders == set(identities)
