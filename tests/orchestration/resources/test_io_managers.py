"""Artefacts go to their path and come back the same, on a disk and in an object store."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import dagster as dg
import pytest
from upath import UPath

from corgi_core.config import preset_named
from corgi_core.config.loading import preset_values, yaml_of
from corgi_core.data.subsets import HIGHEST, CaptionSubset
from corgi_core.errors import CorgiError
from orchestration.partitions import Partitions, prior_of
from orchestration.resources.artifacts import CaptionSubset as CaptionSubsetType
from orchestration.resources.io_managers import MISSING_ALLOWED, ArtifactIOManager
from orchestration.resources.workspace import Workspace
from tests.helpers.tiny import fill_disk

PARTITIONS = Partitions.of(preset_named("emoji"))


@pytest.fixture(params=["disk", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[UPath]:
    if request.param == "disk":
        yield UPath(tmp_path / "storage")
        return
    memory = UPath(f"memory://{uuid4().hex}/storage")
    yield memory
    if memory.exists():
        memory.fs.rm(memory.path, recursive=True)


def subset_of(name: str) -> CaptionSubset:
    return CaptionSubset(0.5, 3, HIGHEST, 2, without=name)


@dg.asset
def single() -> dg.MaterializeResult[CaptionSubsetType]:
    return dg.MaterializeResult(value=subset_of("single"))


@dg.asset(partitions_def=PARTITIONS.caption_subsets)
def by_subset(
    context: dg.AssetExecutionContext, single: CaptionSubsetType
) -> dg.MaterializeResult[CaptionSubsetType]:
    assert single.without == "single"
    return dg.MaterializeResult(value=subset_of(context.partition_key))


@dg.asset(partitions_def=PARTITIONS.priors)
def by_prior(
    context: dg.AssetExecutionContext, by_subset: CaptionSubsetType
) -> dg.MaterializeResult[CaptionSubsetType]:
    _, subset = prior_of(context.partition_key)
    assert by_subset.digest == subset_of(subset).digest  # its own partition of the upstream
    return dg.MaterializeResult(value=subset_of(context.partition_key))


@dg.asset
def gathered(by_prior: dict[str, CaptionSubsetType]) -> dg.MaterializeResult[CaptionSubsetType]:
    for key, subset in by_prior.items():
        assert subset.digest == subset_of(key).digest
    return dg.MaterializeResult(value=subset_of(str(sorted(by_prior))))


def materialize(root: UPath, asset: str, partition: str | None = None) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [single, by_subset, by_prior, gathered],
        selection=[asset],
        partition_key=partition,
        resources={"io_manager": ArtifactIOManager(root)},
        instance=INSTANCE,
    )


INSTANCE = dg.DagsterInstance.ephemeral()


def test_round_trips_through_every_kind_of_partition(root: UPath) -> None:
    materialize(root, "single")
    for subset in PARTITIONS.caption_subsets.get_partition_keys():
        materialize(root, "by_subset", subset)
    for prior in PARTITIONS.priors.get_partition_keys():
        materialize(root, "by_prior", prior)
    materialize(root, "gathered")
    whole = CaptionSubset.load(root / "gathered")
    assert whole.digest == subset_of(str(sorted(PARTITIONS.priors.get_partition_keys()))).digest


def test_the_workspace_names_the_io_managers_paths(root: UPath) -> None:
    materialize(root, "single")
    materialize(root, "by_subset", "10%")
    materialize(root, "by_prior", "10%|shifted-k1")
    workspace = Workspace(
        preset_yaml=yaml_of(preset_values(preset_named("emoji"))),
        own_dataset=None, storage=str(root), dataset_folder="d", work="w", reports="r", suites="s",
    )  # fmt: skip
    for asset, partition in (
        ("single", None),
        ("by_subset", "10%"),
        ("by_prior", "10%|shifted-k1"),
    ):
        assert CaptionSubset.load(workspace.path_of(asset, partition)).fraction == 0.5


def test_an_artefact_of_another_type_is_refused(root: UPath) -> None:
    @dg.asset
    def wrong() -> dg.MaterializeResult[CaptionSubsetType]:
        return dg.MaterializeResult(value="a string")

    with pytest.raises(dg.DagsterTypeCheckDidNotPass):
        dg.materialize([wrong], resources={"io_manager": ArtifactIOManager(root)})
    assert not (root / "wrong").exists()


@pytest.mark.parametrize("there", [True, False])
def test_the_only_partition_comes_in_a_dict_too(root: UPath, there: bool) -> None:
    """A preset with one subset of captions has one partition of its decoders that read captions."""

    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(["100%"]))
    def part() -> dg.MaterializeResult[CaptionSubsetType]:
        return dg.MaterializeResult(value=subset_of("100%"))

    found: dict[str, CaptionSubset] = {}

    @dg.asset(ins={"part": dg.AssetIn(metadata={MISSING_ALLOWED: True})})
    def whole(part: dict[str, CaptionSubsetType]) -> None:
        found.update(part)

    about = {"resources": {"io_manager": ArtifactIOManager(root)}, "instance": INSTANCE}
    if there:
        dg.materialize([part, whole], selection=["part"], partition_key="100%", **about)
    dg.materialize([part, whole], selection=["whole"], **about)
    assert {key: subset.digest for key, subset in found.items()} == (
        {"100%": subset_of("100%").digest} if there else {}
    )


def test_a_full_disk_is_named_with_what_to_do(small_disk: Path) -> None:
    fill_disk(small_disk / "ballast", left=0)
    manager = ArtifactIOManager(UPath(small_disk))
    folder = UPath(small_disk / "captions")
    with pytest.raises(CorgiError, match=f"the disk of {folder} is full. free space there"):
        manager.dump_to_path(dg.build_output_context(), subset_of("x" * 10_000), folder)
