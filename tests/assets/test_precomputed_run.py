"""`corgi run` on precomputed embeddings: from a Parquet file to evaluated, registered priors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from corgi_core.evaluation.report import TEXT_EMBEDDING
from corgi_core.io.model_index import MODELS_FILE, ModelIndex, champion_of
from tests.helpers.tiny_corgi import Corgi, corgi_in
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
        assert set(scores["cosine_by_encoder"]) == set(WIDTHS)
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
