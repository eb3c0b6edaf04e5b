"""The data that a workspace learns from, as an asset that Dagster observes and does not make."""

from __future__ import annotations

import dagster as dg

from corgi_core.errors import CorgiError
from orchestration.automation.staleness import observation, observed_version
from orchestration.resources.source_data import SourceData
from orchestration.settings import Settings

SOURCE_DATA = dg.AssetKey("source_data")


def source_data_of(settings: Settings) -> dg.SourceAsset:
    """The asset `source_data`: people observe it by hand, the sensor whenever it has changed."""

    @dg.observable_source_asset(
        key=SOURCE_DATA,
        group_name="data",
        description="The dataset as `corgi ingest` or DVC left it. Its data version is the digest "
        "of its shards; an observation is made when it has changed.",
    )
    def source_data() -> dg.DataVersion:
        found = SourceData.of(settings)
        if found.version is None:
            raise CorgiError(found.problem, "bring whole data, and observe again")
        return dg.DataVersion(found.version)

    return source_data


def change_of(instance: dg.DagsterInstance, version: str) -> list[dg.AssetObservation]:
    """The observation of a version that is not the one observed last; none where it is."""
    if observed_version(instance, SOURCE_DATA) == version:
        return []
    return [observation(SOURCE_DATA, version)]


def observe(instance: dg.DagsterInstance, settings: Settings) -> None:
    """Record the version of the data, where it has changed."""
    version = SourceData.of(settings, observed_version(instance, SOURCE_DATA)).version
    if version is not None:
        for change in change_of(instance, version):
            instance.report_runless_asset_event(change)
