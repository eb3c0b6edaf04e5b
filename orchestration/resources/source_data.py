"""The version of the data that a workspace learns from, as they lie there now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from corgi_core.errors import CorgiError
from orchestration.resources.dvc import INGEST, LOCK, version_in_lock
from orchestration.resources.workspace import DATASETS, Workspace
from orchestration.settings import Settings

if TYPE_CHECKING:
    from corgi_core.data.dataset import Dataset


@dataclass(frozen=True)
class SourceData:
    """What lies in a dataset's folder.

    Attributes:
        version: The digest of whole data: DVC's, or that of the shards' digests; the reader's name
            where the preset makes its own. None where the data are not there, or not whole.
        problem: Why there is no version; "" where there is one.
    """

    version: str | None
    problem: str = ""

    @classmethod
    def of(cls, settings: Settings, known: str | None = None) -> SourceData:
        """The raw data of a workspace; no image is read.

        Data are whole where every tar that their index names has the size that it names: an index
        that was uploaded before its shards is no version yet. The version `known` was whole once.
        """
        from corgi_core.data.dataset import Dataset, is_dataset

        if settings.own_dataset is None and not settings.under_dvc:
            return cls(settings.preset.data.source)  # made here, by this version of Corgi
        if settings.under_dvc:
            version = version_in_lock(LOCK, INGEST)
            problem = "" if version else f"{LOCK} records no data: run `dvc repro` or `corgi run`"
            return cls(version, problem)
        folder = Workspace.of(settings).path_of(DATASETS[0])
        if not is_dataset(folder):
            return cls(None, f"there are no data in {folder}: run `corgi ingest` or `corgi run`")
        try:
            dataset = Dataset.load(folder)
        except CorgiError as error:  # of another version, or half written
            return cls(None, str(error))
        if dataset.digest != known and (torn := _half_there(dataset)):
            return cls(None, torn)
        return cls(dataset.digest)


def _half_there(dataset: Dataset) -> str:
    """The first shard whose tar is missing or has another size than its index says; "" if none."""
    from corgi_core.data.manifest import manifest_path, tar_path

    for name, record in dataset.records.items():
        if not manifest_path(dataset.folder, name).exists():
            return f"the manifest of shard {name} is not there yet"
        tar = tar_path(dataset.folder, name)
        if record.outside is not None or record.images == 0:
            continue
        found = tar.stat().st_size if tar.exists() else 0
        if found != record.bytes:
            return f"shard {name} is half there: {found:,} of {record.bytes:,} bytes"
    return ""
