"""The whole lineage, end to end, through Dagster with a real Ray and a real MLflow store."""

import json
import sys

import mlflow
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from upath import UPath

from corgi_core.config import LANGUAGE_FREE
from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Dataset
from corgi_core.decoders.registry import load_decoder
from corgi_core.encoders.clip import ClipEnsemble
from corgi_core.evaluation.report import (
    BASELINES,
    PICTURE_BASELINES,
    REAL_AGAINST_REAL,
    TEXT_EMBEDDING,
)
from corgi_core.evaluation.split_overlap import SplitOverlap
from corgi_core.prior.model import PriorModel
from tests.helpers import forked
from tests.helpers.picture_metrics import frechet, share_inside
from tests.helpers.whole import manifest_of


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
    assert steps[-1] == workspace.preset.prior.training.steps
    assert steps[0] <= workspace.steps_before_the_kill < steps[-1]
    # The entries up to the kill are the first job's, and were not made again.
    times = [entry["time"] for entry in entries]
    kill = sum(step <= workspace.steps_before_the_kill for step in steps) - 1
    assert times[kill] < workspace.resumed_at < times[-1]


def subsets(workspace):
    """Those that a demo trains priors on: the language-free one is for those who ask."""
    return set(workspace.preset.caption_subsets) - {LANGUAGE_FREE}


def count_of_priors(workspace):
    return len(workspace.preset.variants) * len(subsets(workspace))


def test_the_report_has_every_variant_subset_and_step(workspace):
    metrics, preset = workspace.metrics, workspace.preset
    steps = {str(count) for count in (1, 4, 16)}
    assert set(metrics["priors"]) == set(preset.variants)
    for by_subset in metrics["priors"].values():
        assert set(by_subset) == subsets(workspace)
        for by_steps in by_subset.values():
            assert steps <= set(by_steps)
            for scores in by_steps.values():
                assert scores["count"] == metrics["protocol"]["held_out_captions"]
    assert set(metrics["baselines"]) == set(BASELINES)
    sources = {*PICTURE_BASELINES, "real embedding", *preset.variants}
    assert set(metrics["pictures"]) == sources
    count = metrics["protocol"]["decoded_images"]
    for source, by_subset in metrics["pictures"].items():
        for scores in by_subset.values():
            assert scores["count"] == (count // 2 if source == REAL_AGAINST_REAL else count)
            assert "fid" not in scores  # no Inception here, so nothing is called FID
    assert {path.name for path in (workspace.state / "reports").glob("*.png")} >= {
        "cosine_by_steps.png",
        "pictures_100_percent.png",
    }


@pytest.fixture(scope="module")
def held_out(workspace):
    """The saved arrays of the held-out images' first captions: keys, real embeddings, texts."""
    storage = UPath(workspace.state / "storage")
    rows = manifest_of(Dataset.load(UPath(workspace.folder / "data" / "emoji-small" / "images")))
    captions = set(rows.loc[(rows["split"] == "test") & rows["captions"].notna(), "key"])
    captions -= SplitOverlap.load(storage / "split_overlap").left_out
    texts = ArrayStore.load(storage / "text_embeddings")
    embeddings = ArrayStore.load(storage / "image_embeddings")
    _, firsts = np.unique(texts.keys, return_index=True)
    rows = np.sort(firsts[np.isin(texts.keys[firsts], list(captions))])
    stored = texts.read_ragged("tokens")
    each = [stored.values[stored.offsets[row] : stored.offsets[row + 1]] for row in rows]
    tokens = pad_sequence([torch.from_numpy(vectors) for vectors in each], batch_first=True)
    lengths = torch.tensor([len(vectors) for vectors in each])
    mask = torch.arange(tokens.shape[1]) < lengths[:, None]
    text = torch.from_numpy(texts.read("text")[rows])
    read = {"tokens": tokens, "mask": mask, "text": text}
    keys = texts.keys[rows]
    real = embeddings.read("image")[embeddings.rows_of(keys)]
    return keys, torch.from_numpy(real).float(), read


def test_the_reported_prior_scores_are_those_of_the_saved_prior(workspace, held_out):
    """Computed again from the artefacts, by the definitions of cosine and recall."""
    _, real, text = held_out
    prior = PriorModel.load(UPath(workspace.path_of("prior", "100%|baseline")))
    seed = workspace.metrics["protocol"]["seed"]
    tokens = text["tokens"].float()
    z = prior.sample(tokens, text["mask"], text["text"].float(), num_steps=4, seed=seed)
    similarity = F.normalize(z, dim=1) @ F.normalize(real, dim=1).T  # of one encoder
    own = similarity.diagonal()
    reported = workspace.metrics["priors"]["baseline"]["100%"]["4"]
    assert reported["cosine"] == pytest.approx(float(own.mean()), abs=1e-3)
    found = (similarity > own[:, None]).sum(dim=1) == 0
    assert reported["recall_at_1"] == pytest.approx(float(found.float().mean()), abs=0.03)


def test_the_reported_picture_scores_are_those_of_the_saved_decoder(workspace, held_out):
    """Of the real embeddings decoded: computed again by loops and scipy's matrix root."""
    keys, real, _ = held_out
    storage = UPath(workspace.state / "storage")
    metrics = workspace.metrics
    count, seed = metrics["protocol"]["decoded_images"], metrics["protocol"]["seed"]
    rows = np.unique(np.linspace(0, len(keys) - 1, count).round().astype(int))
    assert len(rows) == count
    clip = ClipEnsemble.load(storage / "clip_encoder")
    pixels = ArrayStore.load(storage / "pixels")
    images = torch.from_numpy(pixels.read("pixels")[pixels.rows_of(keys[rows])])
    decoder = load_decoder(UPath(workspace.path_of("decoder", workspace.preset.decoder.kind)))
    pictures = decoder.decode(real[rows], seed=seed)
    a, b = (
        F.normalize(clip.encode_images(squares), dim=1).double().numpy()
        for squares in (images, pictures)
    )
    reported = metrics["pictures"]["real embedding"]["none"]
    assert reported["precision"] == pytest.approx(share_inside(b, a), abs=1.5 / count)
    assert reported["recall"] == pytest.approx(share_inside(a, b), abs=1.5 / count)
    assert reported["frechet_clip"] == pytest.approx(frechet(a, b), abs=5e-3)
    assert reported["clip_similarity_image"] == pytest.approx((a * b).sum(axis=1).mean(), abs=1e-3)
    for variant in workspace.preset.variants:
        # a sampled embedding says less of the image than its own
        sampled = metrics["pictures"][variant]["100%"]["clip_similarity_image"]
        assert sampled < reported["clip_similarity_image"]


def test_a_prior_that_reads_captions_beats_the_text_embedding(workspace):
    metrics = workspace.metrics
    steps = str(metrics["protocol"]["prior_steps"])
    for variant in workspace.preset.variants:
        cosine = metrics["priors"][variant]["100%"][steps]["cosine"]
        assert cosine > metrics["baselines"][TEXT_EMBEDDING]["cosine"]


def test_running_again_does_nothing(workspace):
    before = {path: path.stat().st_mtime_ns for path in (workspace.state / "storage").rglob("*")}
    again = workspace.quick("demo")
    assert again.returncode == 0, again.stderr
    assert "0 steps done" in again.stdout
    assert "corgi generate --preset emoji-small" in again.stdout  # what to do next
    after = {path: path.stat().st_mtime_ns for path in (workspace.state / "storage").rglob("*")}
    assert after == before


def test_dagster_materialises_the_same_artefact(workspace):
    """`dagster asset materialize` in a process of its own, and with Ray."""
    asset, partition = "prior", "1.7%|baseline"
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
    before = workspace.forget("gaussian_bank", "shifted-k16")
    job = ["job", "execute", "-m", "orchestration.definitions", "-j", "everything"]
    done = workspace.fork(forked.module("dagster"), *job)
    log = done.stdout + done.stderr
    assert done.returncode == 0, log
    assert "materialising gaussian_bank shifted-k16: its files are gone" in log
    assert log.count("materialising ") == 1
    assert workspace.bytes_of("gaussian_bank", "shifted-k16") == before


@pytest.fixture(scope="module")
def store(workspace):
    return mlflow.MlflowClient(f"sqlite:///{workspace.folder}/.corgi/mlflow/mlflow.db")


def test_every_training_and_the_evaluation_are_runs(workspace, store):
    experiments = store.search_experiments()
    runs = store.search_runs([e.experiment_id for e in experiments], max_results=200)
    names = [run.info.run_name for run in runs]
    assert sum(name.startswith("prior-") for name in names) == count_of_priors(workspace)
    for name in ("decoder-pca", "evaluation", "clip"):
        assert names.count(name) == 1
    # The runs above those of a killed job's steps stay as it left them.
    of_steps = [run for run in runs if not run.info.run_name.startswith("refresh-")]
    assert all(run.info.status == "FINISHED" for run in of_steps), names
    prior = next(run for run in runs if run.info.run_name.startswith("prior-"))
    assert {"loss", "learning_rate", "held_out_cosine"} <= set(prior.data.metrics)
    curve = store.get_metric_history(prior.info.run_id, "loss")
    assert len({point.step for point in curve}) == len(curve) > 2
    assert any("dagster" in tag for tag in prior.data.tags)


def test_the_registry_names_champions(workspace, store):
    models = {model.name for model in store.search_registered_models()}
    parts = {"emoji-small-prior", "emoji-small-decoder", "emoji-small-clip"}
    assert models == parts | {"emoji-small-pipeline"}
    priors = store.search_model_versions("name = 'emoji-small-prior'")
    assert len(priors) == count_of_priors(workspace)
    for name in models:
        assert store.get_model_version_by_alias(name, "champion").version
    decoder = store.get_model_version_by_alias("emoji-small-decoder", "pca")
    assert int(decoder.version) == 1


def test_generate_decodes_with_the_champions(workspace):
    outputs = []
    for name, corgi in (("a.png", workspace.corgi), ("b.png", workspace.quick)):
        done = corgi("generate", "a red apple, noto style", "-n", "4", "--out", name, "--seed", "5")
        assert done.returncode == 0, done.stdout + done.stderr
        outputs.append(Image.open(workspace.folder / name))
    first, second = (np.asarray(picture.convert("RGB")) for picture in outputs)
    size = workspace.preset.decoder.image_size
    assert first.shape[0] >= 2 * size
    assert first.shape[1] >= 2 * size
    assert first.std() > 5  # something is decoded
    np.testing.assert_array_equal(first, second)
    assert json.loads(outputs[0].text["corgi"])["captions"] == ["a red apple, noto style"]


def test_generate_shows_the_training_images_nearest_to_an_image_on_its_way(workspace):
    images = Dataset.load(workspace.folder / "data" / "emoji-small" / "images")
    _, image = next(images.images(images.shards[0]))
    (workspace.folder / "mine.png").write_bytes(image)
    done = workspace.quick(
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
    done = workspace.quick(*words)
    assert done.returncode == 2
    assert message in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
    assert not (workspace.folder / "x.png").exists()
    assert not (workspace.folder / "data" / "n").exists()


def test_a_variant_that_somebody_trained_joins_the_evaluation(workspace):
    """Last, as it adds to the workspace: a learned bank, its prior, and what becomes stale."""
    variant = "shifted-k1024-learned"
    for asset, partition in (("gaussian_bank", variant), ("prior", f"100%|{variant}")):
        done = workspace.fork(
            forked.module("dagster"), "asset", "materialize", "-m", "orchestration.definitions",
            "--select", asset, "--partition", partition, CORGI_WORKERS="0",
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    again = workspace.quick("demo")
    assert again.returncode == 0, again.stderr
    assert "2 steps done" in again.stdout  # the evaluation and the registry
    metrics = json.loads((workspace.state / "reports" / "metrics.json").read_text())
    assert set(metrics["priors"]) == {*workspace.preset.variants, variant}
    assert set(metrics["priors"][variant]) == {"100%"}
    table = workspace.quick("results").stdout
    (row,) = [line for line in table.splitlines() if line.startswith(f"prior {variant}")]
    assert "100%" in row
    assert "0 steps done" in workspace.quick("demo").stdout
