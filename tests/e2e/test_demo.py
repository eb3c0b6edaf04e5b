"""The whole lineage, end to end, through Dagster with a real Ray and a real MLflow store."""

import json
import sys

import mlflow
import numpy as np
import pytest
from PIL import Image
from upath import UPath

from corgi_core.config import CAPTION_SUBSETS, LANGUAGE_FREE, preset_named
from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Dataset

PRESET = preset_named("emoji-small")
SUBSETS = set(CAPTION_SUBSETS) - {LANGUAGE_FREE}  # which is for those who ask
AGAIN = [("gaussian_bank", "shifted-k16"), ("prior", "1.7%|baseline")]


def test_embedding_went_on_from_the_whole_shards(workspace):
    store = ArrayStore.load(UPath(workspace.state / "storage" / "image_embeddings"))
    assert 0 < len(workspace.torn_embedding_shards) < len(store.shards)
    assert set(workspace.torn_embedding_shards) < set(store.shards)
    embeddings = store.read("image")
    assert np.isfinite(embeddings).all()
    assert len(np.unique(store.keys)) == len(embeddings)


def test_training_went_on_from_the_checkpoint(workspace):
    lines = (workspace.killed_training / "metrics.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    steps = [entry["step"] for entry in entries]
    assert steps == sorted(set(steps))
    assert steps[-1] == PRESET.prior.training.steps
    assert steps[0] <= workspace.steps_before_the_kill < steps[-1]
    # Time went on while the job was dead; the entries before the kill are the first job's.
    before = [e["time"] for e in entries if e["step"] <= workspace.steps_before_the_kill]
    after = [e["time"] for e in entries if e["step"] > workspace.steps_before_the_kill]
    assert min(after) - max(before) > 2


def test_the_report_has_every_variant_subset_and_step(workspace):
    metrics = workspace.metrics
    steps = {str(count) for count in (1, 2, 4, 8, 16, 64)}
    assert set(metrics["priors"]) == set(PRESET.variants)
    for by_subset in metrics["priors"].values():
        assert set(by_subset) == SUBSETS
        for by_steps in by_subset.values():
            assert steps <= set(by_steps)
            for scores in by_steps.values():
                assert -1 <= scores["cosine"] <= 1
                assert scores["count"] == metrics["protocol"]["held_out_captions"]
                assert scores["seconds"] >= 0
    assert set(metrics["pictures"]) == {"real embedding", *PRESET.variants}
    for by_subset in metrics["pictures"].values():
        for scores in by_subset.values():
            assert scores["frechet_distance_clip"] >= 0
            assert 0 <= scores["precision"] <= 1
            assert 0 <= scores["recall"] <= 1
            assert "fid" not in scores  # no Inception here, so nothing is called FID
    assert {path.name for path in (workspace.state / "reports").glob("*.png")} >= {
        "cosine_by_steps.png",
        "pictures_100_percent.png",
    }


def test_a_prior_that_reads_captions_beats_the_text_embedding(workspace):
    metrics = workspace.metrics
    steps = str(metrics["protocol"]["prior_steps"])
    for variant in PRESET.variants:
        cosine = metrics["priors"][variant]["100%"][steps]["cosine"]
        assert cosine > metrics["text_embedding"]["cosine"]


def test_running_again_does_nothing(workspace):
    before = {path: path.stat().st_mtime_ns for path in (workspace.state / "storage").rglob("*")}
    again = workspace.corgi("demo")
    assert again.returncode == 0, again.stderr
    assert "0 steps done" in again.stdout
    assert "corgi generate --preset emoji-small" in again.stdout  # what to do next
    after = {path: path.stat().st_mtime_ns for path in (workspace.state / "storage").rglob("*")}
    assert after == before


@pytest.mark.parametrize(("asset", "partition"), AGAIN)
def test_dagster_materialises_the_same_artefact(workspace, asset, partition):
    """`dagster asset materialize` in a process of its own gives the bytes of `corgi demo`."""
    before = workspace.forget(asset, partition)
    done = workspace.run(
        [
            sys.executable, "-m", "dagster", "asset", "materialize", "-m",
            "orchestration.definitions", "--select", asset, "--partition", partition,
        ]
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert workspace.bytes_of(asset, partition) == before


def test_the_job_behind_the_sensor_does_what_is_missing(workspace):
    """What the sensor on DVC's data version starts, in a process of its own."""
    before = workspace.forget("gaussian_bank", "shifted-k1")
    job = ["job", "execute", "-m", "orchestration.definitions", "-j", "everything"]
    done = workspace.run([sys.executable, "-m", "dagster", *job])
    log = done.stdout + done.stderr
    assert done.returncode == 0, log
    assert "materialising gaussian_bank shifted-k1: its files are gone" in log
    assert log.count("materialising ") == 1
    assert workspace.bytes_of("gaussian_bank", "shifted-k1") == before


@pytest.fixture(scope="module")
def store(workspace):
    return mlflow.MlflowClient(f"sqlite:///{workspace.folder}/.corgi/mlflow/mlflow.db")


def test_every_training_and_the_evaluation_are_runs(workspace, store):
    experiments = store.search_experiments()
    runs = store.search_runs([e.experiment_id for e in experiments], max_results=200)
    names = [run.info.run_name for run in runs]
    assert sum("prior" in name for name in names) == len(PRESET.variants) * len(SUBSETS)
    for name in ("decoder-pca", "evaluation", "clip"):
        assert names.count(name) == 1
    assert all(run.info.status == "FINISHED" for run in runs), names
    prior = next(run for run in runs if "prior" in run.info.run_name)
    assert {"loss", "learning_rate", "held_out_cosine"} <= set(prior.data.metrics)
    curve = store.get_metric_history(prior.info.run_id, "loss")
    assert len({point.step for point in curve}) == len(curve) > 2
    assert any("dagster" in tag for tag in prior.data.tags)


def test_the_registry_names_champions(store):
    models = {model.name for model in store.search_registered_models()}
    assert models == {"emoji-small-prior", "emoji-small-decoder", "emoji-small-clip"}
    priors = store.search_model_versions("name = 'emoji-small-prior'")
    assert len(priors) == len(PRESET.variants) * len(SUBSETS)
    for name in models:
        assert store.get_model_version_by_alias(name, "champion").version
    drawing = store.get_model_version_by_alias("emoji-small-decoder", "pca")
    assert int(drawing.version) == 1


def test_generate_draws_with_the_champions(workspace):
    outputs = []
    for name in ("a.png", "b.png"):
        done = workspace.corgi(
            "generate", "a red apple, noto style", "-n", "4", "--out", name, "--seed", "5"
        )
        assert done.returncode == 0, done.stdout + done.stderr
        outputs.append(Image.open(workspace.folder / name))
    first, second = (np.asarray(picture.convert("RGB")) for picture in outputs)
    size = PRESET.decoder.image_size
    assert first.shape[0] >= 2 * size
    assert first.shape[1] >= 2 * size
    assert first.std() > 5  # something is drawn
    np.testing.assert_array_equal(first, second)
    assert json.loads(outputs[0].text["corgi"])["captions"] == ["a red apple, noto style"]


def test_generate_shows_the_training_images_nearest_to_an_image_on_its_way(workspace):
    images = Dataset.load(workspace.folder / "data" / "emoji-small" / "images")
    _, image = next(images.images(images.shards[0]))
    (workspace.folder / "mine.png").write_bytes(image)
    done = workspace.corgi(
        "generate", "-i", "mine.png", "a red apple", "an apple", "--nearest", "2", "--out", "c.gif"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Most like the training image" in done.stdout
    with Image.open(workspace.folder / "c.gif") as film:
        made = json.loads(film.info["comment"])
    assert made["images"][0]["name"] == "mine.png"
    keys = set(images.keys("train"))
    assert all(near["key"] in keys for row in made["nearest"] for near in row)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generate", "", "--out", "x.png"], "prompt is empty"),
        (["generate", "x" * 100_000, "--out", "x.png"], "100,000 characters"),
        (["generate", "a cat", "-n", "1000000", "--out", "x.png"], "1000000 images"),
        (["generate", "a cat", "--guidance", "nan", "--out", "x.png"], "between 0 and 100"),
        (["generate", "a cat", "--steps", "0", "--out", "x.png"], "steps"),
        (["ingest", "/nowhere", "--format", "imagefolder", "--name", "n"], "/nowhere"),
    ],
)
def test_bad_requests_end_with_one_sentence_and_code_2(workspace, words, message):
    done = workspace.corgi(*words)
    assert done.returncode == 2
    assert message in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
    assert not (workspace.folder / "x.png").exists()
    assert not (workspace.folder / "data" / "n").exists()


def test_a_variant_that_somebody_trained_joins_the_evaluation(workspace):
    """Last, as it adds to the workspace: a learned bank, its prior, and what becomes stale."""
    variant = "shifted-k1024-learned"
    for asset, partition in (("gaussian_bank", variant), ("prior", f"100%|{variant}")):
        done = workspace.run(
            [
                sys.executable, "-m", "dagster", "asset", "materialize", "-m",
                "orchestration.definitions", "--select", asset, "--partition", partition,
            ]
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    again = workspace.corgi("demo")
    assert again.returncode == 0, again.stderr
    assert "2 steps done" in again.stdout  # the evaluation and the registry
    metrics = json.loads((workspace.state / "reports" / "metrics.json").read_text())
    assert set(metrics["priors"]) == {*PRESET.variants, variant}
    assert set(metrics["priors"][variant]) == {"100%"}
    table = workspace.corgi("results").stdout
    assert next(line for line in table.splitlines() if variant in line).count("–") == 2
    assert "0 steps done" in workspace.corgi("demo").stdout
