"""What every asset may ask of its surroundings: the preset, its own place, a folder to work in."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import dagster as dg
from upath import UPath

from corgi_core.presets import Preset, preset_named
from orchestration.partitions import prior_of, priors
from orchestration.settings import Settings

DATA_IO_MANAGER = "data_io_manager"  # of the assets whose folders DVC may own


class Workspace(dg.ConfigurableResource):  # type: ignore[type-arg]
    """One preset on one dataset; `definitions` fills it from the settings."""

    preset_name: str
    own_dataset: str | None
    storage: str
    dataset_folder: str
    work: str
    reports: str

    @classmethod
    def of(cls, settings: Settings) -> Workspace:
        return cls(
            preset_name=settings.preset.name,
            own_dataset=settings.own_dataset,
            storage=str(settings.storage),
            dataset_folder=str(settings.dataset_folder),
            work=str(settings.work),
            reports=str(settings.reports),
        )

    @cached_property
    def preset(self) -> Preset:
        return preset_named(self.preset_name)

    def place(self, context: dg.AssetExecutionContext) -> UPath:
        """Where the IO manager keeps this asset: a store computed there is resumed there."""
        manager = context.assets_def.get_io_manager_key_for_asset_key(context.asset_key)
        root = self.dataset_folder if manager == DATA_IO_MANAGER else self.storage
        return UPath(root).joinpath(*context.asset_key.path, *_partition_of(context))

    def work_folder(self, context: dg.AssetExecutionContext, digest: str) -> Path:
        """A local folder for a resumable piece of work; other inputs, another folder."""
        return Path(self.work).joinpath(*context.asset_key.path, *_partition_of(context), digest)

    @property
    def reports_folder(self) -> Path:
        return Path(self.reports)


def _partition_of(context: dg.AssetExecutionContext) -> tuple[str, ...]:
    if not context.has_partition_key:
        return ()
    if context.assets_def.partitions_def == priors:
        variant, subset = prior_of(context.partition_key)
        return (subset, variant)  # UPathIOManager's order: by the dimension's name
    return (context.partition_key,)
