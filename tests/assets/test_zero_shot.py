"""Models of one dataset are scored on another; what both have is found, shown and left out."""

import io
import json
from pathlib import Path
from typing import Any

import dagster as dg
import mlflow
import numpy as np
import pytest
from PIL import Image

from assets.zero_shot import no_training_image_is_evaluated
from corgi_core.data.dataset import Dataset
from corgi_core.errors import CorgiError
from corgi_core.evaluation.overlap import Overlap
from corgi_core.evaluation.report import TEXT_EMBEDDING
from orchestration.definitions import build_definitions
from orchestration.settings import Settings
from tests.helpers.tiny_corgi import Corgi, corgi_in
from tests.helpers.tiny_pipeline import tiny_pipeline
from tests.helpers.whole import manifest_of

PRESET = """
extends: emoji-small
clip: ["./their/clip_encoder"]
variants: [baseline]
caption_subsets: [100%]
language_free: null
data: {test_fraction: 0.3, validation_fraction: 0.2, shard_size: 20, twin_cosine: null}
prior:
  width: 32
  layers: 1
  training: &short
    steps: 6
    batch_size: 8
    warmup_steps: 1
    evaluate_every: 6
    checkpoint_every: 6
decoders:
  pca: {components: 20, width: 32, training: *short}
  cascade: null
  gan: null
  lafite: null
evaluation: {steps: [1], images: 8, grid_rows: 2}
zero_shot: {dataset: others, cosine: 0.999}
"""
COPY, AGAIN, INDEPENDENT = "test/exact", "test/smaller", "test/independent"  # planted images


def picture(seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((72, 72), Image.Resampling.BICUBIC)


def write(folder: Path, name: str, image: bytes, suffix: str = "png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.{suffix}").write_bytes(image)
    (folder / f"{name}.txt").write_text(f"a picture of {name}")


def encoded(image: Image.Image, **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, **{"format": "PNG"} | options)
    return content.getvalue()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of pictures: `others/test` has two of `mine/train`, one as a smaller JPEG."""
    home = tmp_path_factory.mktemp("zero-shot")
    tiny_pipeline().clip.save(home / "their" / "clip_encoder")
    for seed in range(24):
        split = "test" if seed % 4 == 0 else "train"
        write(home / "mine" / split, f"mine{seed}", encoded(picture(seed)))
    test = home / "others" / "test"
    write(home / "others" / "train", "unused", encoded(picture(999)))
    write(test, "exact", encoded(picture(1)))
    write(test, "smaller", encoded(picture(2).resize((50, 50)), format="JPEG", quality=70), "jpg")
    write(test, "independent", encoded(picture(1000)))
    for seed in range(2000, 2008):
        write(test, f"other{seed}", encoded(picture(seed)))
    return home


@pytest.fixture(scope="module")
def corgi(home: Path) -> Corgi:
    corgi = corgi_in(home, PRESET, CORGI_DATASET="mine")
    for name in ("mine", "others"):
        done = corgi("ingest", name, "--format", "imagefolder", "--name", name)
        assert done.returncode == 0, done.stderr
    return corgi


@pytest.fixture(scope="module")
def state(home: Path, corgi: Corgi) -> Path:
    done = corgi("run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Zero-shot on others, without 2 of 11 test images" in done.stdout
    return home / ".corgi" / "emoji-small.mine"


def test_both_copies_are_found_and_the_independent_image_is_not(state: Path) -> None:
    overlap = Overlap.load(state / "storage" / "zero_shot_overlap")
    assert INDEPENDENT in set(
        manifest_of(Dataset.load(state / "storage" / "zero_shot_images"))["key"]
    )
    assert overlap.keys == {COPY, AGAIN}
    assert overlap.counts == {"images": 11, "overlapping": 2, "by_hash": 2, "by_embedding": 2}
    pairs = overlap.pairs.set_index("key")
    assert pairs["training_key"].to_dict() == {COPY: "train/mine1", AGAIN: "train/mine2"}
    assert pairs.loc[COPY, "bits"] == 0
    assert pairs.loc[COPY, "cosine"] == pytest.approx(1, abs=1e-3)
    assert pairs["nearest_key"].to_dict() == {COPY: "train/mine1", AGAIN: "train/mine2"}


def test_the_check_says_how_many_and_which(state: Path) -> None:
    overlap = Overlap.load(state / "storage" / "zero_shot_overlap")
    found = no_training_image_is_evaluated(overlap)
    assert isinstance(found, dg.AssetCheckResult)
    assert not found.passed
    assert found.severity == dg.AssetCheckSeverity.WARN
    assert "2 of 11 evaluated images" in (found.description or "")
    examples = found.metadata["examples"]
    assert isinstance(examples, dg.TableMetadataValue)
    assert {record.data["key"] for record in examples.records} == {COPY, AGAIN}
    none = no_training_image_is_evaluated(Overlap(11, overlap.pairs.iloc[:0]))
    assert isinstance(none, dg.AssetCheckResult)
    assert none.passed


def test_scores_are_labelled_and_of_the_other_images_alone(home: Path, state: Path) -> None:
    own = json.loads((state / "reports" / "metrics.json").read_text())
    metrics = json.loads((state / "reports" / "zero_shot" / "metrics.json").read_text())
    assert "zero_shot" not in own["protocol"]
    assert own["protocol"]["held_out_captions"] == 6
    assert metrics["protocol"]["held_out_captions"] == 9
    about = metrics["protocol"]["zero_shot"]
    trained, evaluated = (
        Dataset.load(folder).digest
        for folder in (home / "data" / "mine" / "images", state / "storage" / "zero_shot_images")
    )
    assert about["dataset"] == "others"
    assert (about["training_data_version"], about["data_version"]) == (trained, evaluated)
    store = mlflow.MlflowClient(f"sqlite:///{home}/.corgi/mlflow/mlflow.db")
    experiment = store.get_experiment_by_name("emoji-small.mine")
    runs = {run.info.run_name: run for run in store.search_runs([experiment.experiment_id])}
    run = runs["zero-shot-others"]

    def final(found: dict[str, Any]) -> float:
        steps = str(found["protocol"]["prior_steps"])
        return float(found["priors"]["baseline"]["100%"][steps]["cosine"])

    page = (state / "reports" / "zero_shot" / "report.html").read_text(encoding="utf-8")
    assert f"/runs/{run.info.run_id}?" in page
    assert f"/runs/{run.data.tags['dagster.run_id']}" in page
    for number in (metrics["protocol"]["data_version"], final(metrics), trained):
        assert str(number) in page
    sent = [a.path for a in store.list_artifacts(run.info.run_id, "report")]
    assert "report/report.html" in sent

    cosine = metrics["priors"]["baseline"]["100%"]["1"]["cosine"]
    prior = runs["prior-baseline-100pc"]
    assert prior.data.metrics["zero_shot/cosine"] == final(metrics)
    assert prior.data.metrics["cosine"] == final(own)
    assert prior.data.params["variant"] == "baseline"
    assert (prior.data.params["preset"], prior.data.params["dataset"]) == ("emoji-small", "mine")
    assert (prior.data.params["caption_fraction"], prior.data.tags["decoder"]) == ("1.0", "pca")
    assert "frechet_clip" in prior.data.metrics
    curve = store.get_metric_history(prior.info.run_id, "cosine_by_steps")
    assert [point.step for point in curve] == [1, own["protocol"]["prior_steps"]]
    assert all(run.info.end_time >= run.info.start_time for run in runs.values())
    scores = {a.path for a in store.list_artifacts(prior.info.run_id, "evaluation")}
    assert scores == {"evaluation/captions.parquet", "evaluation/protocol.json"}
    pictures = [a.path for a in store.list_artifacts(prior.info.run_id, "images")]
    titles = {path.split("+")[0] for path in pictures}
    assert {title[:9] for title in titles} == {"images/00", "images/01", "images/ze"}
    (model,) = store.search_logged_models(
        [experiment.experiment_id], f"source_run_id = '{prior.info.run_id}'"
    )
    assert final(own) == {m.key: m.value for m in model.metrics}["cosine"]
    text = [run for run in runs.values() if run.data.params.get("variant") == TEXT_EMBEDDING]
    assert own["baselines"][TEXT_EMBEDDING]["cosine"] in [
        run.data.metrics.get("cosine") for run in text
    ]
    assert cosine != own["priors"]["baseline"]["100%"]["1"]["cosine"]
    assert run.data.tags["data_version.images"] == trained
    assert run.data.tags["data_version.zero_shot_images"] == evaluated


@pytest.mark.usefixtures("state")
def test_new_evaluated_data_are_evaluated_and_nothing_is_trained(home: Path, corgi: Corgi) -> None:
    """After the others: it changes the data."""
    write(home / "more" / "test", "late", encoded(picture(3000)))
    done = corgi("ingest", "more", "--format", "imagefolder", "--name", "others")
    assert done.returncode == 0, done.stderr
    done = corgi("run")
    assert "zero_shot_evaluation" in done.stdout
    for trained in ("decoder pca", "prior 100% baseline", "clip_encoder"):
        assert f"{trained}: unchanged" in done.stdout
    assert "without 2 of 12 test images" in done.stdout


def test_a_dataset_that_is_not_there_or_is_the_training_data_is_refused(corgi: Corgi) -> None:
    done = corgi("run", "--set", "zero_shot.dataset=nowhere")
    assert done.returncode == 2
    assert "corgi ingest PATH --name nowhere" in " ".join(done.stderr.split())
    same = Settings.load({}, dataset="mine", overrides=["zero_shot.dataset=mine"])
    with pytest.raises(CorgiError, match="not zero-shot"):
        build_definitions(same)
