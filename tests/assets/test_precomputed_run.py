"""`corgi run` and `corgi retrain` on precomputed embeddings: from a Parquet file to champions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
from mlflow import MlflowClient
from safetensors.numpy import load_file

from corgi_core.evaluation.report import TEXT_EMBEDDING
from corgi_core.io.files import digest_of_file
from corgi_core.io.model_index import MODELS_FILE, IndexedModel, ModelIndex, champion_of
from tests.helpers.evaluations import without_intervals
from tests.helpers.tiny_corgi import Corgi, corgi_in, dagster_in
from tests.helpers.vectors_on_disk import WIDTHS, rows, write_parquet

# The preset's own graph in seconds: `corgi` with smaller trainings, in this one process (no Ray).
SMALL = """
extends: embeddings
variants: [baseline, shifted-k1]
data: {twin_cosine: null}
encoders:
  text_tokens: 8
  training: {steps: 120, batch_size: 64, learning_rate: 3e-3, warmup_steps: 5, weight_decay: 0.06,
             ema_decay: 0.9, evaluate_every: 120, checkpoint_every: 120}
prior:
  width: 64
  training: {steps: 80, batch_size: 64, learning_rate: 3e-3, warmup_steps: 5, ema_decay: 0.9,
             evaluate_every: 80, checkpoint_every: 80}
evaluation: {steps: [1]}
"""
PRIORS = {"baseline", "shifted-k1"}


@dataclass(frozen=True)
class Retrained:
    """What a retrain printed; before it, the priors' weights by partition, and the champion."""

    printed: str
    before: dict[str, str]
    champion: IndexedModel


def priors_in(workspace: Path) -> dict[str, str]:
    """The digests of the priors' weights by folder, "1.7%/baseline"."""
    root = workspace / "storage" / "prior"
    files = sorted(root.glob("*/*/model.safetensors"))
    return {str(file.parent.relative_to(root)): digest_of_file(file) for file in files}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def corgi(home: Path) -> Corgi:
    """Runs `corgi WORDS… --preset embeddings` in a workspace of its own."""
    return corgi_in(home, SMALL)


@pytest.fixture(scope="module")
def workspace(home: Path, corgi: Corgi) -> Path:
    """The state of a workspace in which the demo has run."""
    path = write_parquet(home / "made.parquet", rows())
    ingested = corgi("ingest", str(path), "--format", "embeddings", "--name", "made")
    assert "corgi run --preset embeddings --dataset made" in ingested.stdout, ingested.stderr
    done = corgi("run", "--dataset", "made")
    assert done.returncode == 0, done.stdout + done.stderr
    return home / ".corgi" / "embeddings.made"


def test_every_prior_is_scored_and_knows_its_captions(workspace: Path) -> None:
    metrics = json.loads((workspace / "reports" / "metrics.json").read_text())
    assert "pictures" not in metrics
    assert metrics["protocol"]["encoders"] == list(WIDTHS)
    assert (
        metrics["protocol"]["held_out_captions"] == 32
    )  # 8 combinations, 4 images, one caption each
    assert set(metrics["priors"]) == PRIORS
    for by_subset in metrics["priors"].values():
        scores = by_subset["100%"]["4"]
        assert set(without_intervals(scores["cosine_by_encoder"])) == set(WIDTHS)
        assert scores["cosine"] > metrics["baselines"][TEXT_EMBEDDING]["cosine"]
        assert scores["cosine"] > scores["shuffled"]["cosine"]
        assert scores["recall_at_5"] > 0.4  # by chance 5 of 32 images


def test_what_was_measured_is_registered_without_a_decoder(home: Path, workspace: Path) -> None:
    client = MlflowClient(f"sqlite:///{home / '.corgi' / 'mlflow' / 'mlflow.db'}")
    names = {model.name for model in client.search_registered_models()}
    assert names == {"embeddings.made-prior", "embeddings.made-clip"}
    assert len(client.search_model_versions("name = 'embeddings.made-prior'")) == 6
    for name in names:
        assert client.get_model_version_by_alias(name, "champion").version
    index = ModelIndex.load(workspace / MODELS_FILE)
    of_all_captions = index.folder("prior", champion_of("100%"))  # the one fraction there is
    assert of_all_captions == index.folder("prior")


def test_the_results_are_a_table_of_priors(workspace: Path, corgi: Corgi) -> None:
    printed = corgi("results", "--dataset", "made").stdout
    assert all(variant in printed for variant in PRIORS)
    assert "corgi study --preset embeddings --dataset made" in printed
    assert "generate" not in printed


def test_nothing_is_done_twice(workspace: Path, corgi: Corgi) -> None:
    assert "0 steps done" in corgi("run", "--dataset", "made").stdout


RETRAINED = "1.7%"


@pytest.fixture(scope="module")
def retrained(home: Path, workspace: Path, corgi: Corgi) -> Retrained:
    """The workspace after new embeddings came and a retrain of one fraction, and that retrain."""
    more = [row for row in rows(copies=5) if str(row["key"]).endswith(".4")]
    path = write_parquet(home / "more.parquet", more)
    added = corgi("ingest", str(path), "--format", "embeddings", "--name", "made")
    assert added.returncode == 0, added.stderr
    before = priors_in(workspace)
    index = ModelIndex.load(workspace / "models.json")
    champion = index.models["prior"][champion_of(RETRAINED)]
    done = corgi("retrain", "--dataset", "made", "--fractions", RETRAINED, "--steps", "20")
    assert done.returncode == 0, done.stdout + done.stderr
    return Retrained(done.stdout, before, champion)


def test_a_retrain_trains_the_champion_further_and_nothing_else(
    workspace: Path, retrained: Retrained
) -> None:
    after = priors_in(workspace)
    changed = {key for key in after if after[key] != retrained.before[key]}
    (key,) = changed
    assert key.startswith(RETRAINED)
    card = json.loads((workspace / "storage" / "prior" / key / "card.json").read_text())
    assert (card["parent"], card["generation"]) == (retrained.champion.digest, 1)
    folders = workspace / "storage" / "prior" / key, retrained.champion.folder
    new, old = (load_file(folder / "model.safetensors") for folder in folders)
    assert new.keys() == old.keys()
    distances = [abs(new[name] - old[name]).max() for name in new if name.startswith("network")]
    assert 0 < max(distances) < 20 * 0.25 * 3e-3 * 2  # steps × learning rate, at most twice that


def test_only_new_shards_are_embedded_and_clip_stays(workspace: Path, retrained: Retrained) -> None:
    with dg.DagsterInstance.from_config(str(workspace / "dagster")) as instance:
        for asset in ("image_embeddings", "text_embeddings"):
            event = instance.get_latest_materialization_event(dg.AssetKey(asset))
            assert event is not None
            assert event.asset_materialization is not None
            assert event.asset_materialization.metadata["shards_computed"].value == 1
            assert event.asset_materialization.metadata["rows"].value > len(rows())
    steps = [line for line in retrained.printed.splitlines() if "unchanged" not in line]
    assert not any("clip_encoder" in line for line in steps)


def test_mlflow_has_the_retrain_with_its_parent_model_and_the_decision(
    home: Path, workspace: Path, retrained: Retrained
) -> None:
    client = MlflowClient(f"sqlite:///{home / '.corgi' / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("embeddings.made")
    assert experiment is not None
    (run,) = client.search_runs(
        [experiment.experiment_id], f"tags.`parent.digest` = '{retrained.champion.digest}'"
    )
    assert run.info.status == "FINISHED"
    assert run.data.params["training.steps"] == "20"
    name = "embeddings.made-prior"
    parent = client.get_model_version(name, run.data.tags["parent.version"])
    assert parent.tags["digest"] == retrained.champion.digest
    above = client.get_run(run.data.tags["mlflow.parentRunId"])
    assert above.info.run_name.startswith("retrain-")
    champion = client.get_model_version_by_alias(name, champion_of(RETRAINED))
    (line,) = [line for line in retrained.printed.splitlines() if " steps; " in line]
    won = champion.tags["digest"] != retrained.champion.digest
    assert ("; promoted: " if won else "; refused: ") in line
    assert f"from the prior {retrained.champion.digest}, 20 steps" in line


def test_dagster_has_the_decision_as_a_check_and_more_of_the_same_alerts_nobody(
    workspace: Path, retrained: Retrained
) -> None:
    with dg.DagsterInstance.from_config(str(workspace / "dagster")) as instance:
        found = {}
        for asset, check in (
            ("registered_models", "promotion"),
            ("image_embeddings", "new_images_are_like_the_champions"),
            ("text_embeddings", "new_captions_are_like_the_champions"),
        ):
            key = dg.AssetCheckKey(dg.AssetKey(asset), check)
            record = instance.get_latest_asset_check_evaluation_record(key)
            assert record is not None
            assert record.event is not None
            evaluation = record.event.asset_check_evaluation
            assert evaluation is not None
            assert evaluation.passed, evaluation.description
            found[asset] = evaluation
    decision = str(found["registered_models"].description)
    assert f"prior {champion_of(RETRAINED)}: " in decision
    assert "decisions" in found["registered_models"].metadata
    for asset in ("image_embeddings", "text_embeddings"):
        assert "are like those that the champion learned from" in str(found[asset].description)


def test_the_results_name_the_champions(
    workspace: Path, retrained: Retrained, corgi: Corgi
) -> None:
    printed = corgi("results", "--dataset", "made").stdout
    assert f"{champion_of(RETRAINED)}: " in printed


def test_the_job_says_that_there_is_nothing_to_train(
    home: Path, workspace: Path, retrained: Retrained
) -> None:
    """What the schedule starts, in a process of its own; where the last one won, it goes on."""
    config = {"fractions": [RETRAINED], "steps": 20}
    (home / "job.yaml").write_text(
        json.dumps({"ops": {"retrain_priors": {"config": config}}}), encoding="utf-8"
    )
    before = priors_in(workspace)
    done = dagster_in(home, SMALL, workspace.name, CORGI_DATASET="made")(
        "job", "execute", "-m", "orchestration.definitions", "-j", "semi_supervised_retrain",
        "-c", str(home / "job.yaml"),
    )  # fmt: skip
    log = done.stdout + done.stderr
    assert done.returncode == 0, log
    if "; refused: " in retrained.printed:
        assert "nothing to train, trained 20" in log
        assert priors_in(workspace) == before
    else:
        assert "continues from the prior" in log
