"""What a workspace stores and nothing refers to any more, and what still refers to the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import dagster as dg
from upath import UPath

from corgi_core.io.files import is_local, read_json
from corgi_core.io.folders import published, sizes_below
from corgi_core.io.model_folder import CARD
from corgi_core.io.model_index import digest_in
from orchestration.resources.warm_start import last_training
from orchestration.resources.workspace import Workspace


class Kind(StrEnum):
    """What a leftover is, in the words of `corgi gc`."""

    VERSIONS = "versions of models in the registry"
    COPIES = "copies of models that only MLflow could read"
    TWICE = "weights that are stored twice"
    WORK = "work folders of models that were replaced"
    CHECKPOINTS = "checkpoints of finished trainings"
    DELETED_RUNS = "files of runs that were deleted in MLflow"
    RUNS = "runs of Dagster and their events"


@dataclass(frozen=True)
class Leftover:
    """One thing that may go.

    Attributes:
        kind: What it is.
        name: Which one.
        size: The bytes that are free afterwards; 0 where they are not known.
        remove: Removes it; where it is killed, another call removes the rest.
    """

    kind: Kind
    name: str
    size: int
    remove: Callable[[], None]


@dataclass(frozen=True)
class Materialized:
    """The latest materialization of one partition of an asset.

    Attributes:
        asset: The asset's name.
        partition: The partition's key; None without partitions.
        moment: When, in seconds since 1970.
        folder: Where its artefact is stored.
    """

    asset: str
    partition: str | None
    moment: float
    folder: UPath

    @property
    def digest(self) -> str | None:
        """Of the model that is stored there; None where it is no model."""
        return digest_in(self.folder)

    @property
    def identity(self) -> str | None:
        """Of the training that made it; None where the artefact does not say."""
        card = published(self.folder) / CARD
        found = read_json(card).get("training") if card.exists() else None
        return None if found is None else str(found)


def materialized_in(instance: dg.DagsterInstance, workspace: Workspace) -> Iterator[Materialized]:
    """The latest materialization of every partition of every asset."""
    for key in instance.all_asset_keys():
        asset = key.to_user_string()
        partitions: Iterable[str] = instance.get_materialized_partitions(key)
        for partition in sorted(partitions):
            if found := last_training(instance, key, partition):
                yield Materialized(asset, partition, found[0], workspace.path_of(asset, partition))
        if not partitions and (event := instance.get_latest_materialization_event(key)):
            yield Materialized(asset, None, event.timestamp, workspace.path_of(asset))


def size_of(folder: Path | UPath) -> int:
    """The bytes that are free once a folder is removed: not those that another name has too."""
    if not folder.exists():
        return 0
    if not is_local(folder):
        return sum(sizes_below(folder).values())
    files = [path.stat() for path in Path(str(folder)).rglob("*") if path.is_file()]
    return sum(file.st_size for file in files if file.st_nlink == 1)
