"""What assets know of their surroundings: the preset, their own paths, a folder to work in."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from upath import UPath

from corgi_core.config import LanguageFreeSettings, Preset, ZeroShotSettings
from corgi_core.config.loading import preset_from_yaml, preset_values, yaml_of
from corgi_core.errors import CorgiError
from orchestration.resources.artifacts import FolderBacked
from orchestration.settings import Settings

if TYPE_CHECKING:
    from corgi_core.data.dataset import Dataset

DATASETS = ("raw_images", "images")  # whose folders DVC may own
RAW_VERSION = "raw_version"  # metadata of the evaluated images: the digest of what they came from
DATA_IO_MANAGER = "data_io_manager"  # keeps these two
LEARNED_FROM = ("images", "pixels", "image_embeddings", "text_embeddings", "caption_subset")
"""Assets that are data, and not models; the zero-shot dataset's have a prefix."""


class Workspace(dg.ConfigurableResource):  # type: ignore[type-arg]
    """One preset on one dataset; `definitions` fills it from the settings."""

    preset_yaml: str
    own_dataset: str | None
    storage: str
    dataset_folder: str
    work: str
    reports: str
    suites: str
    trainings: str | None = None  # in the storage; None where no CORGI_STORAGE names one

    @classmethod
    def of(cls, settings: Settings) -> Workspace:
        """The workspace of the settings."""
        return cls(
            preset_yaml=yaml_of(preset_values(settings.preset)),
            own_dataset=settings.own_dataset,
            storage=str(settings.storage),
            dataset_folder=str(settings.dataset_folder),
            work=str(settings.work),
            reports=str(settings.reports),
            suites=str(settings.suites),
            trainings=str(settings.storage / "trainings") if settings.storage_url else None,
        )

    @cached_property
    def preset(self) -> Preset:
        """The settings of data, models and evaluations."""
        return preset_from_yaml(self.preset_yaml)

    @property
    def language_free(self) -> LanguageFreeSettings:
        """The source that is trained without captions; CorgiError where the preset names none."""
        settings = self.preset.language_free
        if settings is None:
            raise CorgiError(
                "the preset names no source to train on without captions",
                "set CORGI_LANGUAGE_FREE to a source of the data, or take a prior from other data "
                "(`corgi generate --prior FOLDER`)",
            )
        return settings

    @property
    def zero_shot(self) -> ZeroShotSettings:
        """The evaluation on another dataset, whose assets are there only with these settings."""
        settings = self.preset.zero_shot
        assert settings is not None, "asked for only with these settings"
        return settings

    @property
    def zero_shot_raw(self) -> Dataset:
        """The raw dataset that the section `zero_shot` names; CorgiError where it is not there."""
        from corgi_core.data.dataset import Dataset, is_dataset

        settings = self.zero_shot
        folder = UPath(self.dataset_folder).parent / settings.dataset / DATASETS[0]
        if not is_dataset(folder):
            raise CorgiError(
                f"the models are to be evaluated on {settings.dataset}, and there is no {folder}",
                f"bring it with `corgi ingest PATH --name {settings.dataset}`, or correct "
                "zero_shot.dataset",
            )
        return Dataset.load(folder)

    @property
    def images(self) -> Dataset:
        """The gated images, for assets that read no captions and depend on `image_splits` alone."""
        from corgi_core.data.dataset import Dataset

        return Dataset.load(self.path_of(DATASETS[1]))

    def path(self, context: dg.AssetExecutionContext) -> UPath:
        """Where the IO manager keeps this asset: a store computed there is resumed there."""
        partition = context.partition_key if context.has_partition_key else None
        return self.path_of(context.asset_key.to_user_string(), partition)

    def path_of(self, asset: str, partition: str | None = None) -> UPath:
        """Where the IO manager keeps that partition of that asset."""
        root = UPath(self.dataset_folder if asset in DATASETS else self.storage)
        return root.joinpath(asset, *_folders_of(partition))

    @property
    def dataset(self) -> str:
        """The name of the dataset."""
        return UPath(self.dataset_folder).name

    def labels(self, seed: int) -> dict[str, Any]:
        """What every run of the workspace says of itself."""
        return {"preset": self.preset.name, "dataset": self.dataset, "seed": seed}

    def datasets(self, inputs: Mapping[str, FolderBacked]) -> list[dict[str, str]]:
        """Name, digest and address of those of an asset's inputs that are data."""
        return [
            {"name": asset, "digest": artifact.digest, "uri": str(self.path_of(asset))}
            for asset, artifact in inputs.items()
            if asset.removeprefix("zero_shot_") in LEARNED_FROM
        ]

    def work_folder(self, context: dg.AssetExecutionContext, digest: str) -> Path:
        """A local folder for resumable work; other inputs, another folder."""
        return Path(str(self.work_of(UPath(self.work), *_partition_of(context)) / digest))

    def stored_work(self, context: dg.AssetExecutionContext, digest: str) -> UPath | None:
        """The same in the storage that a cluster's nodes reach; None where none is named."""
        if self.trainings is None:
            return None
        return self.work_of(UPath(self.trainings), *_partition_of(context)) / digest

    def work_of(self, root: UPath, asset: str, partition: str | None) -> UPath:
        """Where a partition's folders of work are below `root`, which is `work` or `trainings`."""
        return root.joinpath(asset, *_folders_of(partition))

    def chunks_folder(self, context: dg.AssetExecutionContext) -> UPath:
        """Where the chunks of an asset's computation are stored, in sight of all machines."""
        return self.path_of(f"{context.asset_key.to_user_string()}_chunks")

    @property
    def tracked_folder(self) -> Path:
        """The folder of files that are made for MLflow, which copies them."""
        return Path(self.work) / "mlflow"

    @property
    def reports_folder(self) -> Path:
        """The folder of tables and pictures for people."""
        return Path(self.reports)

    @property
    def suites_folder(self) -> Path:
        """The folder of prompt suites with their pictures and votes."""
        return Path(self.suites)


def _partition_of(context: dg.AssetExecutionContext) -> tuple[str, str | None]:
    partition = context.partition_key if context.has_partition_key else None
    return context.asset_key.to_user_string(), partition


def _folders_of(partition: str | None) -> list[str]:
    """A multi-partition key is "10%|baseline", in the order of UPathIOManager's folders."""
    return [] if partition is None else partition.split("|")
