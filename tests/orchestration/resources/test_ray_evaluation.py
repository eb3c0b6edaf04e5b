"""An evaluation whose pictures are decoded and summed by Ray's workers: the same bits as here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from corgi_core.config import EvaluationSettings
from corgi_core.data.array_jobs import ArrayJob
from corgi_core.data.arrays import ArrayStore
from corgi_core.evaluation.evaluate import evaluate
from corgi_core.evaluation.picture_features import PictureFeatures
from corgi_core.evaluation.picture_statistics import Distances
from corgi_core.pipeline import CorgiPipeline
from orchestration.resources.compute import Compute
from tests.helpers.evaluations import held_out_material, in_this_process, saved_models

HERE = str(Path(__file__).parents[3])  # where workers find the package
SETTINGS = EvaluationSettings(steps=(1,), images=9, grid_rows=3)


@pytest.fixture(scope="module", autouse=True)
def ray_session() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([HERE, os.environ.get("PYTHONPATH", "")]))
        Compute(ray_init_options={"num_cpus": 2}).connect()
        yield
        ray.shutdown()


def test_two_workers_decode_and_sum_the_same_bits(
    pipeline: CorgiPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corgi_core.evaluation.picture_scores.CHUNK", 3)
    models = saved_models(pipeline, tmp_path / "models")
    two_workers = Compute(num_workers=1, min_images=0)

    def on_ray(job: ArrayJob, folder: Path) -> ArrayStore:
        shared = isinstance(job, PictureFeatures | Distances)
        return two_workers.arrays(job, folder) if shared else in_this_process(job, folder)

    material = held_out_material(pipeline, models, tmp_path, captions=2)
    digests, clips, distances = set(), set(), set()
    for name, run in (("here", in_this_process), ("there", on_ray)):
        there = replace(material, folder=tmp_path / name, run=run)
        found = evaluate({("baseline", "100%"): models.prior}, models.decoder, there, SETTINGS)
        digests.add(found.digest)
        store = ArrayStore.load(tmp_path / name / "pictures")
        clips.add(b"".join(store.read_shard(shard, "clip").tobytes() for shard in store.shards))
        stored = tmp_path / name / "picture_statistics" / "distances"
        distances.add(ArrayStore.load(stored).digest)
    assert len(digests) == len(clips) == len(distances) == 1
