"""Code versions and partitions: what of the settings decides an asset, said where it is defined.

An asset's metadata name the sections of the settings that decide it beyond its inputs, and the
revision of its source. `settled` derives its code version and partitions from a preset's settings.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from corgi_core.config import Preset
from corgi_core.io.files import digest_of
from orchestration.partitions import Partitions

SETTINGS, REVISION, PARTITIONS = "settings", "revision", "partitioned_by"  # names of metadata
PRESETS_DECODER = dg.SpecificPartitionsPartitionMapping(["the preset's decoder"])
"""Maps an input to the partition of the decoder that the preset decodes by."""


def decided_by(
    *sections: str, revision: int | Sequence[int], partitions: str | None = None
) -> dict[str, str]:
    """Metadata of an asset's definition.

    Args:
        sections: the sections of the preset that decide what the asset holds.
        revision: raise it with every change of source that changes what the asset holds: then
            Dagster reports it as stale, and unfinished trainings are not continued. Of an asset
            that holds the arrays of a job it is the job's, in `corgi_core.data.revisions`; of one
            that computes from such arrays on the way, its own and those of the jobs.
        partitions: the field of `Partitions` that it is partitioned by.

    Returns:
        The metadata, for `@dg.asset(metadata=…)`.
    """
    partitioned = {PARTITIONS: partitions} if partitions else {}
    revisions = [revision] if isinstance(revision, int) else revision
    return {SETTINGS: ", ".join(sections), REVISION: ".".join(map(str, revisions)), **partitioned}


def settled(asset: dg.AssetsDefinition, preset: Preset) -> dg.AssetsDefinition:
    """The asset with the code version and the partitions that a preset's settings give it."""
    return asset.map_asset_specs(
        lambda spec: spec.replace_attributes(
            code_version=code_version(spec.metadata, preset),
            partitions_def=_partitions(spec.metadata, preset),
            deps=[_mapped(dep, preset) for dep in spec.deps],
        )
    )


def code_version(metadata: Mapping[str, Any], preset: Preset) -> str:
    """The revision of the source, and the digest of the settings that decide the asset."""
    sections = [section for section in metadata[SETTINGS].split(", ") if section]
    revision: str = metadata[REVISION]
    return f"{revision}-{digest_of(preset.digest(*sections))}" if sections else revision


def _mapped(dep: dg.AssetDep, preset: Preset) -> dg.AssetDep:
    if dep.partition_mapping != PRESETS_DECODER:
        return dep
    kinds = [preset.decoder.kind] if preset.decoder else []
    return dg.AssetDep(
        dep.asset_key, partition_mapping=dg.SpecificPartitionsPartitionMapping(kinds)
    )


def _partitions(metadata: Mapping[str, Any], preset: Preset) -> dg.PartitionsDefinition[Any] | None:
    name = metadata.get(PARTITIONS)
    definition: dg.PartitionsDefinition[Any] | None = (
        getattr(Partitions.of(preset), name) if name else None
    )
    return definition
