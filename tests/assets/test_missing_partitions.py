"""An asset that takes the partitions that are there, and is stale when another one joins."""

from pathlib import Path

import dagster as dg
import pytest
from upath import UPath

from corgi_core.config import preset_named
from corgi_core.data.subsets import HIGHEST
from corgi_core.data.subsets import CaptionSubset as Subset
from corgi_core.errors import CorgiError
from orchestration.automation.staleness import staleness
from orchestration.partitions import Partitions
from orchestration.resources.artifacts import CaptionSubset
from orchestration.resources.io_managers import MISSING_ALLOWED, ArtifactIOManager

PRIORS = Partitions.of(preset_named("emoji")).priors
ALL = {"part": dg.AssetIn(metadata={MISSING_ALLOWED: True})}


@dg.asset(partitions_def=PRIORS, code_version="1")
def part(context: dg.AssetExecutionContext) -> dg.MaterializeResult[CaptionSubset]:
    subset = Subset(0.5, 0, HIGHEST, 1, without=context.partition_key)
    return dg.MaterializeResult(value=subset, data_version=dg.DataVersion(subset.digest))


@dg.asset(ins=ALL, code_version="1")
def whole(part: dict[str, CaptionSubset]) -> dg.MaterializeResult[CaptionSubset]:
    subset = Subset(1, 0, HIGHEST, 1, without=" ".join(p.without for p in part.values()))
    return dg.MaterializeResult(value=subset, data_version=dg.DataVersion(subset.digest))


@dg.asset(code_version="1")
def strict(part: dict[str, CaptionSubset]) -> None:
    pass


def test_what_is_there_is_taken_and_what_joins_makes_it_stale(tmp_path: Path) -> None:
    assets = [part, whole, strict]
    graph = dg.Definitions(assets=assets).resolve_asset_graph()
    with dg.DagsterInstance.ephemeral() as instance:

        def make(asset: dg.AssetsDefinition, partition: str | None = None) -> None:
            dg.materialize(
                assets, selection=[asset], partition_key=partition, instance=instance,
                resources={"io_manager": ArtifactIOManager(UPath(tmp_path))},
            )  # fmt: skip

        def members() -> list[str]:
            return Subset.load(UPath(tmp_path / "whole")).without.split()

        first, second = "100%|baseline", "1.7%|shifted-k1024-learned"
        make(part, first)
        make(whole)
        assert members() == [first]
        assert staleness(graph, whole.key, None, instance) is None
        make(part, first)  # once more the same
        assert staleness(graph, whole.key, None, instance) is None
        make(part, second)
        assert staleness(graph, whole.key, None, instance) == "has a new dependency data version"
        make(whole)
        assert sorted(members()) == sorted([first, second])
        assert staleness(graph, whole.key, None, instance) is None
        with pytest.raises(CorgiError, match="materialise it again"):
            make(strict)
