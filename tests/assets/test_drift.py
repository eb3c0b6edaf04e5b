"""The checks of drift, on stores of made embeddings and a champion that has learned from some."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
import torch
from upath import UPath

from assets.drift import drift_of
from corgi_core.data.arrays import Arrays, ArrayStore, compute_missing
from corgi_core.gaussians.bank import GaussianBank
from corgi_core.io.model_index import CHAMPION, IndexedModel, ModelIndex, TextEncoderName
from corgi_core.pipeline import CorgiPipeline
from corgi_core.prior.model import PriorModel
from orchestration.resources.tracking import MLflow
from orchestration.resources.workspace import Workspace
from orchestration.settings import Settings

DIMS, ROWS, VARIANT = (8, 8), 200, "shifted-k16"
SPEC = {"encoder": "one", "encoder_dims": list(DIMS)}


@dataclass(frozen=True)
class Shards:
    """Shards whose digests are their names."""

    shards: list[str]

    def shard_digest(self, shard: str) -> str:
        return shard

    def images_in(self, _shard: str) -> int:
        return ROWS


class World:
    """A workspace with embeddings in shards, each of them around a direction of its own."""

    def __init__(self, home: Path) -> None:
        environment = {"CORGI_HOME": str(home / ".corgi"), "CORGI_DATA": str(home / "data")}
        settings = Settings.load(environment)
        self.workspace, self.mlflow = Workspace.of(settings), MLflow.of(settings)

    def embed(self, asset: str, spec: dict[str, object] | None = None, **shards: int) -> ArrayStore:
        """A store with the shards by name, each around the direction of that number."""
        name = asset.partition("_")[0]

        def made(shard: str) -> Arrays:
            random = np.random.default_rng(sum(map(ord, shard)))
            centre = 3 * np.eye(sum(DIMS))[[shards[shard], 8 + shards[shard]]].sum(axis=0)
            rows = (random.normal(size=(ROWS, sum(DIMS))) + centre).astype(np.float16)
            return {"keys": np.array([f"{shard}-{n}" for n in range(ROWS)]), name: rows}

        folder = self.workspace.path_of(asset)
        return compute_missing(folder, Shards(list(shards)), spec or SPEC, made, "made")

    def check(self, asset: str, store: ArrayStore) -> dg.AssetCheckResult:
        return drift_of(asset, store, self.workspace, self.mlflow)

    def crown(self, prior: PriorModel, versions: dict[str, str]) -> None:
        """Make a prior champion that has learned from those data versions."""
        card = {"data_versions": versions, "labels": {"variant": VARIANT}}
        champion = PriorModel(prior.network, prior.bank, prior.settings, prior.encoders, card)
        folder = Path(self.workspace.storage) / "champion"
        champion.save(UPath(folder))
        models = {"prior": {CHAMPION: IndexedModel(folder, champion.digest)}}
        index = ModelIndex("emoji", TextEncoderName("minilm", 8), models)
        index.save(Path(self.mlflow.models_file))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, pipeline: CorgiPipeline) -> World:
    """Whose champion has learned from images around 0 and 1, and captions around 2."""
    made = World(tmp_path_factory.mktemp("home"))
    images = made.embed("image_embeddings", a=0, b=1)
    texts = made.embed("text_embeddings", a=2, b=2)
    for asset, store in (("image_embeddings", images), ("text_embeddings", texts)):
        found = made.check(asset, store)
        assert found.passed
        assert "no champion yet" in str(found.description)
    versions = {"image_embeddings": images.digest, "text_embeddings": texts.digest}
    made.crown(pipeline.prior, versions)
    means = 3 * (torch.eye(16)[:8] + torch.eye(16)[8:])
    bank = GaussianBank(means, torch.ones_like(means), torch.ones(8), DIMS, 1.0)
    bank.save(made.workspace.path_of("gaussian_bank", VARIANT))
    return made


def value(result: dg.AssetCheckResult, name: str) -> float:
    return float(result.metadata[name].value)  # type: ignore[arg-type,union-attr]


def test_more_of_the_same_passes_and_other_images_are_named_with_numbers(world: World) -> None:
    same = world.check("image_embeddings", world.embed("image_embeddings", a=0, b=1, c=0, d=1))
    assert same.passed, same.description
    assert f"{2 * ROWS} new embeddings are like those" in str(same.description)
    assert value(same, "mean_shift") < 0.1
    store = world.embed("image_embeddings", a=0, b=1, e=4)
    other = world.check("image_embeddings", store)
    assert (other.passed, other.severity) == (False, dg.AssetCheckSeverity.WARN)
    within = np.sqrt(16 + 2 * 2 * 1.5**2)  # of each direction's own, and of two directions
    apart = np.sqrt(2 * 9 + 2 * 2 * 1.5**2)
    assert value(other, "mean_shift") == pytest.approx(apart / within, rel=0.2)
    assert value(other, "occupancy_psi") > 1
    assert "evaluate the champion on them, and retrain" in str(other.description)


def test_captions_that_moved_towards_their_images_change_the_gap(world: World) -> None:
    world.embed("image_embeddings", a=0, b=1, f=0, g=1, i=0, j=1)
    same = world.check("text_embeddings", world.embed("text_embeddings", a=2, b=2, f=2, g=2))
    assert same.passed, same.description
    nearer = world.check("text_embeddings", world.embed("text_embeddings", a=2, b=2, i=0, j=1))
    assert not nearer.passed
    assert value(nearer, "modality_gap") < 0.2 < value(nearer, "modality_gap_before")
    assert "the gap between images and captions" in str(nearer.description)


def test_what_cannot_be_compared_passes_and_says_so(world: World) -> None:
    nothing = world.check("image_embeddings", world.embed("image_embeddings", a=0, b=1))
    assert "0 new embeddings since the champion" in str(nothing.description)
    other = world.embed("image_embeddings", {**SPEC, "encoder": "two"}, a=0, b=1, h=5)
    assert "belongs to other encoders" in str(world.check("image_embeddings", other).description)


def test_a_threshold_is_a_setting(world: World) -> None:
    store = world.embed("image_embeddings", a=0, b=1, e=4)
    preset = world.workspace.preset
    lax = replace(preset, drift=replace(preset.drift, mean_shift=9.0, occupancy=99.0))
    assert lax.digest() == preset.digest()  # it decides no result
    world.workspace.__dict__["preset"] = lax
    assert world.check("image_embeddings", store).passed
    world.workspace.__dict__["preset"] = preset
