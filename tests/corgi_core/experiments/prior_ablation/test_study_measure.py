"""Arms are trained and measured, and a killed study goes on with what is there."""

from __future__ import annotations

import json
import signal
from dataclasses import replace

import pytest

from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Dataset
from corgi_core.encoders.similarity import mean_encoder_cosine
from corgi_core.evaluation.derangement import derangement
from corgi_core.evaluation.report import (
    BASELINES,
    CONTRASTIVE_PRIOR,
    LINEAR_PRIOR,
    NEAREST_TO_IMAGE,
    NEAREST_TO_TEXT,
    RANDOM_TRAINING,
    REAL_AGAINST_REAL,
    TEXT_EMBEDDING,
)
from corgi_core.experiments.prior_ablation.arms import BASELINE, Arm, shifted_text
from corgi_core.experiments.prior_ablation.measure import START, measure_arm, train_arm
from corgi_core.experiments.prior_ablation.references import MEAN, measure_references
from corgi_core.experiments.prior_ablation.sweeps import Plan, Sampling, plans_of, sweeps_of
from corgi_core.prior.task import Captions
from tests.helpers.processes import PROCESSES
from tests.helpers.small_study import IMAGES, PRESET, measure_two_arms, small_study

pytestmark = pytest.mark.integration  # trains, or starts processes, for seconds

PLAN = Plan(Arm(BASELINE), (Sampling(1), Sampling(3, guidance=2.0)), (Sampling(1),), timesteps=True)


@pytest.fixture
def study(tmp_path):
    return small_study(tmp_path)


def test_an_arms_measurement_holds_what_its_plan_asks(study):
    found = measure_arm(study, PLAN)
    one, three = found["samples"]
    assert (one["steps"], one["guidance"], three["steps"], three["guidance"]) == (1, 1.0, 3, 2.0)
    assert "spread" in one
    assert "spread" not in three
    assert one["start"] == "baseline"
    assert one["k"] == 1
    start, *way = found["timesteps"]
    assert start["of"] == START
    assert [row["timestep"] for row in way] == [999, 666, 332]
    # the last prediction is the sample itself, but for its scale
    plain = measure_arm(study, Plan(PLAN.arm, (Sampling(3),), (), timesteps=False))
    assert way[-1]["cosine"] == pytest.approx(plain["samples"][0]["cosine"], abs=1e-6)
    assert [row["step"] for row in found["training"]] == [6, 12]


def test_a_gaussian_for_every_caption_starts_nearer_than_one_that_knows_none(study):
    arm = Arm(shifted_text(1.0)).with_setting("contrast", 0.1)
    found = measure_arm(study, replace(PLAN, arm=arm))
    start, *_ = found["timesteps"]
    baseline, *_ = measure_arm(study, PLAN)["timesteps"]
    assert start["cosine"] > baseline["cosine"] + 0.3
    assert found["samples"][0]["settings"] == "contrast=0.1"
    assert train_arm(study, arm)[0].settings.contrast == 0.1
    log = study.run_folder(arm) / "metrics.jsonl"
    assert '"contrast"' in log.read_text()  # the term is part of its loss


def test_no_more_captions_than_a_chunk_are_padded_at_once(study, monkeypatch):
    padded, batch = [], Captions.batch
    monkeypatch.setattr(
        Captions,
        "batch",
        lambda self, rows, *at: padded.append(len(rows)) or batch(self, rows, *at),
    )
    whole = measure_arm(study, PLAN)
    study.measurement_file(PLAN).unlink()
    padded.clear()
    monkeypatch.setattr("corgi_core.experiments.prior_ablation.measure.CAPTIONS_AT_ONCE", 6)
    chunked = measure_arm(study, PLAN)
    assert max(padded) == 6
    for one, other in zip(chunked["timesteps"], whole["timesteps"], strict=True):
        assert one["cosine"] == pytest.approx(other["cosine"], abs=1e-6)


def test_held_out_captions_are_the_first_of_each_image(study):
    assert len(study.held_out) == 20 < IMAGES / 4 - 5
    every = [tuple(row.tolist()) for row in study.held_out.image]
    assert len(set(every)) == 20
    images, keys = study.images, study.dataset.keys("train")
    train = {tuple(row) for row in images.read("image")[images.rows_of(keys)].tolist()}
    assert not train & set(every)


def test_no_split_is_held_whole(study, monkeypatch):
    monkeypatch.setattr(Dataset, "keys", None)
    for whole in ("read", "keys", "rows_of", "read_ragged"):
        monkeypatch.setattr(ArrayStore, whole, None)
    assert measure_arm(study, PLAN)["samples"]
    assert measure_references(study, 0)["references"]


def test_what_needs_no_prior(study):
    rows = {row["label"]: row for row in measure_references(study, 0)["references"]}
    assert rows[MEAN]["cosine"] == pytest.approx(rows[MEAN]["shuffled_cosine"], abs=0.05)
    assert rows[MEAN]["recall_at_5"] == pytest.approx(5 / 20)
    assert (
        rows[TEXT_EMBEDDING]["cosine"] > rows[TEXT_EMBEDDING]["shuffled_cosine"] + 0.3
    )  # the caption tells much
    assert rows[TEXT_EMBEDDING]["recall_at_5"] > rows[MEAN]["recall_at_5"]
    assert rows[RANDOM_TRAINING]["frechet"] < rows[MEAN]["frechet"]
    assert rows[LINEAR_PRIOR]["cosine"] > max(
        rows[n]["cosine"] for n in (MEAN, TEXT_EMBEDDING, RANDOM_TRAINING)
    )
    assert rows[CONTRASTIVE_PRIOR]["recall_at_1"] >= rows[LINEAR_PRIOR]["recall_at_1"]
    assert rows[NEAREST_TO_IMAGE]["cosine"] > rows[NEAREST_TO_TEXT]["cosine"]
    half, other = derangement(20).split(10)
    true = study.held_out.image
    cosines = mean_encoder_cosine(true[half], true[other], study.scorer.encoder_dims)
    assert rows[REAL_AGAINST_REAL]["cosine"] == pytest.approx(float(cosines.mean()), abs=1e-6)
    assert set(BASELINES) < rows.keys()
    protocol = study.protocol(0)
    assert (protocol.split, protocol.held_out_captions) == ("validation", 20)
    assert protocol.data_version == study.dataset.digest


def test_a_measurement_is_taken_once(study, monkeypatch):
    first = measure_arm(study, PLAN)
    monkeypatch.setattr(
        "corgi_core.experiments.prior_ablation.measure.train_arm", None
    )  # would raise if called
    assert measure_arm(study, PLAN) == json.loads(json.dumps(first))


def test_another_way_to_measure_trains_nothing_anew(study):
    measure_arm(study, PLAN)
    other = Plan(PLAN.arm, (Sampling(2),), (), timesteps=False)
    assert measure_arm(study, other)["samples"][0]["steps"] == 2
    assert train_arm(study, PLAN.arm)[1].already_finished


def test_a_killed_study_goes_on(tmp_path):
    killed = PROCESSES.Process(target=measure_two_arms, args=(tmp_path / "killed", 9))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    work = tmp_path / "killed" / "work"
    finished = {path: path.stat().st_mtime_ns for path in work.glob("*/final.safetensors")}
    assert len(finished) == len(list(work.glob("*.json"))) == 1
    assert list(work.glob("*/checkpoints/step-000008"))

    measure_two_arms(tmp_path / "killed")
    measure_two_arms(tmp_path / "straight")
    for path, moment in finished.items():
        assert path.stat().st_mtime_ns == moment  # the first arm was taken as it was
    killed, straight = (
        {path.name: path for path in (tmp_path / name / "work").glob("*.json")}
        for name in ("killed", "straight")
    )
    assert len(killed) == 2
    assert killed.keys() == straight.keys()
    for name in killed:
        assert without_clock(killed[name]) == without_clock(straight[name])


def without_clock(path):
    rows = json.loads(path.read_text())
    for row in rows["training"]:
        del row["seconds"]
    return rows


def test_the_seed_and_the_share_of_captions_make_another_arm(study):
    folders = {study.run_folder(plan.arm) for seed in (0, 1) for plan in plans(seed)}
    assert len(folders) == 2 * len(plans(0))


def plans(seed):
    return plans_of(sweeps_of(PRESET), seed, 3)
