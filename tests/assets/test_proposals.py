"""The asset that proposes images to caption, in a workspace with a champion and in one without."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
from typer.testing import CliRunner
from upath import UPath

from assets.proposals import CaptionBudget, caption_proposals, proposed
from assets.versions import settled
from corgi_core.data.arrays import Arrays, ArrayStore, compute_missing
from corgi_core.data.caption_choice import COVERAGE, RANDOM, UNCERTAINTY
from corgi_core.data.caption_proposals import FILE, CaptionProposals
from corgi_core.data.dataset import Dataset, write_dataset
from corgi_core.data.keys import TrainingKeys
from corgi_core.data.ragged import RaggedArray
from corgi_core.errors import CorgiError
from corgi_core.io.model_index import CHAMPION, IndexedModel, ModelIndex, TextEncoderName
from corgi_core.pipeline import CorgiPipeline
from orchestration.cli.app import cli
from orchestration.resources.compute import Compute
from orchestration.resources.io_managers import ArtifactIOManager
from orchestration.resources.tracking import MLflow
from orchestration.resources.workspace import Workspace
from orchestration.settings import Settings
from tests.helpers.tiny_pipeline import write_images


class World:
    """A workspace of 30 pictures, every third of them without a caption, with made embeddings."""

    def __init__(self, home: Path, pipeline: CorgiPipeline) -> None:
        self.environment = {"CORGI_HOME": str(home / ".corgi"), "CORGI_DATA": str(home)}
        settings = Settings.load(self.environment)
        preset = replace(settings.preset, data=replace(settings.preset.data, twin_cosine=None))
        self.settings = replace(settings, preset=preset)
        self.workspace, self.mlflow = Workspace.of(self.settings), MLflow.of(self.settings)
        self.prior = pipeline.prior
        self.images = write_images(self.workspace.path_of("images"), 30, 12)
        width, dims = self.prior.bank.width, list(self.prior.bank.encoder_dims)
        spec = {**self.prior.encoders, "encoder_dims": dims}
        random = np.random.default_rng(0)
        z = random.normal(size=(30, width)).astype(np.float16)

        def image(shard: str) -> Arrays:
            keys = self.images.rows(shard, "key")["key"].to_numpy(dtype=str)
            return {"keys": keys, "image": z[[int(key[3:]) for key in keys]]}

        def text(shard: str) -> Arrays:
            keys = self.images.rows(shard, "key")["key"].to_numpy(dtype=str)
            keys = keys[self.images.captioned(shard)]
            tokens = random.normal(size=(2 * len(keys), self.prior.network.shape.text_width))
            lengths = np.full(len(keys), 2)
            return {
                "keys": keys,
                "text": random.normal(size=(len(keys), width)).astype(np.float16),
                "tokens": RaggedArray.of_lengths(tokens.astype(np.float16), lengths),
            }

        path = self.workspace.path_of
        self.store = compute_missing(path("image_embeddings"), self.images, spec, image, "images")
        compute_missing(path("text_embeddings"), self.images, spec, text, "texts")

    def crown(self) -> None:
        """Make the tiny prior champion."""
        folder = Path(self.workspace.storage) / "champion"
        self.prior.save(UPath(folder))
        models = {"prior": {CHAMPION: IndexedModel(folder, self.prior.digest)}}
        index = ModelIndex("emoji", TextEncoderName("minilm", 8), models)
        index.save(Path(self.mlflow.models_file))

    def proposed(self, rule: str, budget: int = 4) -> CaptionProposals:
        return proposed(
            CaptionBudget(budget=budget, rule=rule), self.images, self.store, self.workspace,
            Compute(num_workers=0), Path(self.mlflow.models_file),
        )  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, pipeline: CorgiPipeline) -> World:
    return World(tmp_path_factory.mktemp("home"), pipeline)


def without_captions(images: Dataset) -> set[str]:
    keys = TrainingKeys(images, captioned=False)
    return {key for shard in images.shards for key in keys.keys(shard).tolist()}


class Stored(ArtifactIOManager):
    """Keeps the asset as the workspace does, and gives its inputs."""

    def __init__(self, world: World) -> None:
        super().__init__(UPath(world.settings.storage))
        self.inputs: dict[str, Dataset | ArrayStore] = {
            "images": world.images, "image_embeddings": world.store
        }  # fmt: skip

    def load_input(self, context: dg.InputContext) -> Dataset | ArrayStore:
        return self.inputs[context.asset_key.to_user_string()]


def materialised(world: World, stored: Stored) -> dg.AssetMaterialization:
    asset = settled(caption_proposals, world.settings.preset)
    done = dg.materialize(
        [*map(dg.AssetSpec, ("images", "image_embeddings")), asset],
        selection=["caption_proposals"],
        resources={
            "io_manager": stored, "workspace": world.workspace, "mlflow": world.mlflow,
            "compute": Compute(num_workers=0),
        },
        run_config={"ops": {"caption_proposals": {"config": {"budget": 3}}}},
    )  # fmt: skip
    (event,) = done.asset_materializations_for_node("caption_proposals")
    return event


def test_where_every_image_has_a_caption_it_is_empty(world: World, tmp_path: Path) -> None:
    """So that "Materialize all" succeeds."""
    samples = [replace(each, captions=["one"]) for each in world.images.samples()]
    stored = Stored(world)
    stored.inputs["images"] = write_dataset(tmp_path / "captioned", samples, 12)
    assert materialised(world, stored).metadata["proposed"].value == 0


def test_it_is_a_table_with_pictures_of_images_without_captions(world: World) -> None:
    event = materialised(world, Stored(world))
    stored = CaptionProposals.load(world.workspace.path_of("caption_proposals"))
    assert event.tags["dagster/data_version"] == stored.digest
    assert len(set(stored.keys)) == 3 == event.metadata["proposed"].value
    assert set(stored.keys) < without_captions(world.images)
    assert str(event.metadata["file"].value).endswith(FILE)
    assert "data:image/" in str(event.metadata["pictures"].value)


def test_uncertainty_asks_the_champion(world: World) -> None:
    with pytest.raises(CorgiError, match="known only of a prior"):
        world.proposed(UNCERTAINTY)
    assert world.proposed("") == world.proposed(COVERAGE)
    world.crown()
    proposals = world.proposed(UNCERTAINTY)
    assert world.proposed("") == proposals
    assert len(proposals.keys) == 4
    assert "the prior's nearest sample" in proposals.proposals[0].reason
    assert world.proposed(UNCERTAINTY) == proposals  # samples have seeds


def test_every_rule_stops_where_no_image_is_left(world: World) -> None:
    for rule in (COVERAGE, RANDOM):
        assert set(world.proposed(rule, budget=99).keys) == without_captions(world.images)


def test_the_command_writes_the_table_and_overwrites_none(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in world.environment.items():
        monkeypatch.setenv(name, value)
    table = tmp_path / FILE
    words = ["propose", "-n", "3", "--rule", "random", "--out", str(table)]
    done = CliRunner().invoke(cli, [*words, "--set", "data.twin_cosine=null"])
    assert done.exit_code == 0, done.output
    assert "3 images to caption" in done.output
    assert table.read_text() == world.proposed(RANDOM, budget=3).table
    refused = CliRunner().invoke(cli, words)
    assert refused.exit_code == 2
    assert "may have captions in it" in refused.output
