"""The daemon's conditions and the walk of `corgi run` select the same for the same changes."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest

from orchestration.automation.conditions import READY_TO_MAKE, automated
from orchestration.automation.refresh import Refresh
from orchestration.automation.staleness import observation, staleness
from orchestration.definitions import build_definitions
from orchestration.settings import Settings

SUBSETS = dg.StaticPartitionsDefinition(["1.7%", "10%", "100%"])
MADE = ["1.7%", "10%"]  # of the partitions of prior; nobody made "100%"
Made = set[tuple[str, str | None]]


class World:
    """A small lineage like ours, whose data versions the tests decide, and two ways to update it.

    source_data → raw_images → images → image_embeddings → gaussian_bank → prior → evaluation; all
    but raw_images and evaluation read `images` too. Each asset's data version is made from those
    of the digests in `digests` that its content depends on.
    """

    def __init__(self, instance: dg.DagsterInstance, code: str = "1") -> None:
        self.instance = instance
        self.digests = {"raw_images": "r1", "images": "i1", "image_embeddings": "e1"}
        self.code = code
        self.cursor: Any = None

    @property
    def assets(self) -> list[dg.AssetsDefinition | dg.SourceAsset]:
        def asset(
            name: str, deps: list[str], code: str = "1", partitioned: bool = False
        ) -> dg.AssetsDefinition:
            @dg.asset(
                name=name, deps=deps, code_version=code, group_name="data",
                partitions_def=SUBSETS if partitioned else None,
            )  # fmt: skip
            def made() -> dg.MaterializeResult[None]:
                version = self.digests.get(name, uuid.uuid4().hex)
                return dg.MaterializeResult(data_version=dg.DataVersion(version))

            return automated(made)

        @dg.observable_source_asset
        def source_data() -> dg.DataVersion:
            raise NotImplementedError("the tests observe it")

        return [
            source_data,
            asset("raw_images", ["source_data"]),
            asset("images", ["raw_images"]),
            asset("image_embeddings", ["images"]),
            asset("gaussian_bank", ["images", "image_embeddings"], self.code),
            asset("prior", ["images", "image_embeddings", "gaussian_bank"], partitioned=True),
            asset("evaluation", ["prior"]),
        ]

    def make(self, name: str, partition: str | None = None) -> None:
        dg.materialize(
            self.assets, selection=[name], partition_key=partition, instance=self.instance
        )

    def make_all(self) -> None:
        for name in ("raw_images", "images", "image_embeddings", "gaussian_bank"):
            self.make(name)
        for partition in MADE:
            self.make("prior", partition)
        self.make("evaluation")

    def observe(self, version: str) -> None:
        self.instance.report_runless_asset_event(observation(dg.AssetKey("source_data"), version))

    def by_walk(self) -> Made:
        """What the walk does: each step in turn that is stale."""
        done: Made = set()
        graph = dg.Definitions(assets=self.assets).resolve_asset_graph()
        for key in graph.toposorted_asset_keys:
            name = key.to_user_string()
            partitions = MADE if name == "prior" else [None]
            for partition in partitions if name != "source_data" else []:
                if staleness(graph, key, partition, self.instance):
                    self.make(name, partition)
                    done.add((name, partition))
        return done

    def tick(self) -> Made:
        result = dg.evaluate_automation_conditions(
            dg.Definitions(assets=self.assets), instance=self.instance, cursor=self.cursor
        )
        self.cursor = result.cursor
        asked: Made = set()
        for found in result.results:
            assert isinstance(found.key, dg.AssetKey)
            name = found.key.to_user_string()
            if name == "prior":
                keys = found.true_subset.expensively_compute_partition_keys()
                asked |= {(name, key) for key in keys}
            elif found.true_subset.size:
                asked.add((name, None))
        return asked

    def by_conditions(self) -> Made:
        """What the daemon does, tick by tick, until a tick asks for nothing."""
        done: Made = set()
        while asked := self.tick():
            assert not asked & done, "made twice for one change"
            for name, partition in sorted(asked, key=str):
                self.make(name, partition)
            done |= asked
        return done


@pytest.fixture
def worlds() -> Iterator[tuple[World, World]]:
    """Two alike, for the two ways; all is made, and the daemon has looked once."""
    with dg.DagsterInstance.ephemeral() as one, dg.DagsterInstance.ephemeral() as two:
        worlds = World(one), World(two)
        for world in worlds:
            world.observe("v1")
            world.make_all()
            assert world.tick() == set()
        yield worlds


PRIORS: Made = {("prior", partition) for partition in MADE}
UNTIL_IMAGES: Made = {("raw_images", None), ("images", None)}
ALL: Made = {
    *UNTIL_IMAGES, ("image_embeddings", None), ("gaussian_bank", None), *PRIORS,
    ("evaluation", None),
}  # fmt: skip


CHANGES: list[tuple[str, dict[str, str], str, Made]] = [
    ("v2", {}, "1", {("raw_images", None)}),  # another version, the same content
    ("v3", {"raw_images": "r3"}, "1", UNTIL_IMAGES),  # the gate lets nothing new through
    ("v4", {"raw_images": "r4", "images": "i4", "image_embeddings": "e4"}, "1", ALL),
    ("v4", {}, "2", {("gaussian_bank", None), *PRIORS, ("evaluation", None)}),
]
"""One after the other: the source's version, new digests, the bank's code version, what is made."""


def test_both_select_the_same(worlds: tuple[World, World]) -> None:
    for source, digests, code, expected in CHANGES:
        for world in worlds:
            world.observe(source)
            world.digests |= digests
            world.code = code
        assert worlds[0].by_walk() == worlds[1].by_conditions() == expected
        assert worlds[0].by_walk() == worlds[1].by_conditions() == set()


def test_the_conditions_are_on_what_the_walk_makes() -> None:
    settings = Settings.from_environment({})
    repository = build_definitions(settings).get_repository_def()
    graph = repository.asset_graph
    with_condition = {
        key for key in graph.get_all_asset_keys()
        if graph.get(key).automation_condition == READY_TO_MAKE
    }  # fmt: skip
    with dg.DagsterInstance.ephemeral() as instance:
        steps = Refresh(repository, instance, settings).all_steps()
        asked = dg.evaluate_automation_conditions(build_definitions(settings), instance)
        assert asked.total_requested == 0  # nothing has been made yet
    assert with_condition == {step.asset for step in steps}
    sensor = repository.get_sensor_def("keep_up_to_date")
    assert sensor.default_status == dg.DefaultSensorStatus.STOPPED
