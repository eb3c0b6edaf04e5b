"""Raw data as they come, the gated images that everything else trusts, and their pixels."""

import dagster as dg

from assets.metadata import (
    OWNERS,
    array_metadata,
    gated_metadata,
    materialized,
    raw_metadata,
)
from assets.versions import decided_by
from corgi_core.data.revisions import GATE_REVISION, INGEST_REVISION, PIXELS_REVISION
from orchestration.resources.artifacts import ArrayStore, Dataset, ImageSplits
from orchestration.resources.compute import Compute
from orchestration.resources.dvc import DVC, GATE, INGEST
from orchestration.resources.workspace import DATA_IO_MANAGER, Workspace

GROUP = "data"


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"webdataset", "dvc"},
    deps=["source_data"],
    metadata=decided_by("data", "seed", revision=INGEST_REVISION),
    io_manager_key=DATA_IO_MANAGER,
)
def raw_images(
    context: dg.AssetExecutionContext, workspace: Workspace, dvc: DVC
) -> dg.MaterializeResult[Dataset]:
    """Images and captions as their source has them, in tar shards with a manifest each.

    Data that `corgi ingest PATH` or DVC brought are used unchanged; otherwise the preset's own
    source is read.
    """
    from corgi_core.data import dataset, ingest

    path, preset = workspace.path(context), workspace.preset
    if workspace.own_dataset or dvc.up_to_date(INGEST):
        raw = dataset.Dataset.load(path)
    else:
        raw = ingest.ingest(preset.data.source, None, path, preset.data, preset.seed, replaced=True)
    return materialized(raw, version=dvc.commit(INGEST), **raw_metadata(raw))


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"webdataset", "pillow", "ray"},
    metadata=decided_by("data", revision=GATE_REVISION),
    io_manager_key=DATA_IO_MANAGER,
)
def images(
    context: dg.AssetExecutionContext,
    raw_images: Dataset,
    workspace: Workspace,
    compute: Compute,
    dvc: DVC,
) -> dg.MaterializeResult[Dataset]:
    """The quality gate: plain RGB images, sound captions; the rest is quarantined with reasons.

    Near twins by perceptual hash come into one split; `quarantine` names those that are moved. Only
    shards that are new or have changed are computed.
    """
    from corgi_core.data import dataset, quality

    path = workspace.path(context)
    if dvc.up_to_date(GATE):
        gated = dataset.Dataset.load(path)
    else:
        gated = quality.gate(raw_images, path, workspace.preset.data, compute.map_images)
        dvc.commit(GATE)
    return materialized(gated, **gated_metadata(gated))


@dg.asset(group_name=GROUP, owners=OWNERS, kinds={"json"}, metadata=decided_by(revision=1))
def image_splits(images: Dataset) -> dg.MaterializeResult[ImageSplits]:
    """Which images there are, and the split of each, whatever their captions.

    What learns from images alone depends on this and not on `images`: captions that arrive for
    images that were there leave it as it is.
    """
    from corgi_core.data.image_splits import ImageSplits as Splits

    return materialized(Splits.of(images), images=len(images))


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"safetensors", "ray"},
    metadata=decided_by("image_size", "framing", "pixels", revision=PIXELS_REVISION),
)
def pixels(
    context: dg.AssetExecutionContext, images: Dataset, workspace: Workspace, compute: Compute
) -> dg.MaterializeResult[ArrayStore]:
    """Every image as a square, uint8, as large as the largest decoder's images are.

    Decoders of smaller images scale them down. Only missing shards are computed. With
    `pixels: online` where the images' files lie instead, from which they are then decoded.
    """
    return squares(context, images, workspace, compute)


def squares(
    context: dg.AssetExecutionContext, images: Dataset, workspace: Workspace, compute: Compute
) -> dg.MaterializeResult[ArrayStore]:
    """The images as squares of the preset's size and framing, or where their files lie."""
    from corgi_core.data.image_index import PIXEL_JOBS

    preset = workspace.preset
    assert preset.image_size is not None
    job = PIXEL_JOBS[preset.pixels](images, preset.image_size, preset.framing)
    store = compute.arrays(job, workspace.path(context))
    return materialized(store, **array_metadata(store))
