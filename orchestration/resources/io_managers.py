"""Artefacts to folders and back, on any file system that UPath knows."""

from __future__ import annotations

import dagster as dg
from upath import UPath

from corgi_core.io.files import make_folder
from corgi_core.io.folders import has_files
from corgi_core.io.full_disk import full_disk_explained
from orchestration.resources.artifacts import Artifact, FolderBacked

MISSING_ALLOWED = "allow_missing_partitions"  # an input's metadata, as Dagster names it


class ArtifactIOManager(dg.UPathIOManager):
    """Keeps an asset under `<root>/<asset key>[/<partition>…]`.

    An artefact writes and reads itself; the input's declared type says which class reads. Several
    partitions at once are a dict by partition key, which holds those that are there if the input
    says so. An artefact that was
    computed in its own folder, shard by shard, is there already, and its `save` copies nothing.
    """

    def __init__(self, root: UPath) -> None:
        super().__init__(base_path=root)

    def make_directory(self, path: UPath) -> None:
        """Make a local folder; an object store needs none."""
        make_folder(path)

    def path_exists(self, path: UPath) -> bool:
        """Whether an artefact is there, and not only what a killed run left of one."""
        return has_files(path)

    def dump_to_path(self, context: dg.OutputContext, obj: FolderBacked, path: UPath) -> None:
        """Write an asset's artefact to its folder."""
        with full_disk_explained(path):
            obj.save(path)

    def load_input(self, context: dg.InputContext) -> FolderBacked | dict[str, FolderBacked] | None:
        """Read an input; the only partition of one that is declared a dict comes in a dict too."""
        loaded: FolderBacked | dict[str, FolderBacked] | None = super().load_input(context)
        if not hasattr(context.dagster_type, "value_type") or isinstance(loaded, dict):
            return loaded
        return {} if loaded is None else {context.asset_partition_key: loaded}

    def load_from_path(self, context: dg.InputContext, path: UPath) -> FolderBacked:
        """Read an input as its declared type.

        Raises FileNotFoundError for a partition that is not there, where the input allows that.
        """
        declared = context.dagster_type
        artifact = getattr(declared, "value_type", declared)  # of dict[str, artefact]
        if not isinstance(artifact, Artifact):
            raise TypeError(
                f"input {context.name!r} is declared {declared.display_name}, no Artifact"
            )
        if (context.definition_metadata or {}).get(MISSING_ALLOWED) and not has_files(path):
            raise FileNotFoundError(path)  # which the base class passes over
        return artifact.load(path)
