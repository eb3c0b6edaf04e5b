"""The gate's blocking checks: what fails one of them, nothing downstream is made from."""

from typing import TYPE_CHECKING

import dagster as dg

from assets.metadata import table
from corgi_core.errors import CorgiError
from orchestration.resources.artifacts import ArrayStore, Dataset, SplitOverlap
from orchestration.resources.workspace import Workspace

if TYPE_CHECKING:
    from corgi_core.data.expectations import SuiteResult


@dg.asset_check(asset="images", blocking=True)
def manifest_meets_expectations(images: Dataset) -> dg.AssetCheckResult:
    """Great Expectations over the manifest; no image or group is in two splits."""
    from corgi_core.data.expectations import check_manifest

    return _outcome(check_manifest(images.iter_rows))


@dg.asset_check(asset="images", blocking=True)
def images_suffice_for_the_preset(images: Dataset, workspace: Workspace) -> dg.AssetCheckResult:
    """There are as many captioned images in each split as training and evaluation need."""
    from corgi_core.data.trainable import check_trainable

    problem = None
    try:
        check_trainable(images.iter_rows, workspace.preset)
    except CorgiError as error:
        problem = f"{error.problem} ({error.remedy})"
    return dg.AssetCheckResult(
        passed=problem is None,
        severity=dg.AssetCheckSeverity.ERROR,
        description=problem or "there are enough captioned images in each split",
    )


@dg.asset_check(asset="image_embeddings", blocking=True)
def image_embeddings_meet_expectations(image_embeddings: ArrayStore) -> dg.AssetCheckResult:
    """Every image embedding is finite, of the recorded width, and neither zero nor huge."""
    from corgi_core.data.expectations import check_embeddings, embedding_statistics

    return _outcome(check_embeddings(embedding_statistics(image_embeddings, "image")))


@dg.asset_check(asset="text_embeddings", blocking=True)
def text_embeddings_meet_expectations(text_embeddings: ArrayStore) -> dg.AssetCheckResult:
    """Every caption embedding is finite, of the recorded width, and neither zero nor huge."""
    from corgi_core.data.expectations import check_embeddings, embedding_statistics

    return _outcome(check_embeddings(embedding_statistics(text_embeddings, "text")))


@dg.asset_check(asset="split_overlap")
def no_near_twins_are_in_two_splits(split_overlap: SplitOverlap) -> dg.AssetCheckResult:
    """No held-out image has a near twin in another split; those that have do not count."""
    counts = split_overlap.counts
    return dg.AssetCheckResult(
        passed=split_overlap.pairs.empty,
        severity=dg.AssetCheckSeverity.WARN,
        description=(
            f"{counts['test_images_left_out']} of {counts['test_images']} test images and "
            f"{counts['validation_images_left_out']} of {counts['validation_images']} validation "
            f"images have a near twin in another split ({counts['near_by_hash']} by perceptual "
            f"hash, {counts['near_by_embedding']} by embedding) and do not count in evaluations"
        ),
        metadata={"left_out": table(split_overlap.displayed)},
    )


def _outcome(result: "SuiteResult") -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=result.success,
        severity=dg.AssetCheckSeverity.ERROR,
        description="; ".join(result.failures) or "all expectations are met",
        metadata={"expectations": table(result.table)},
    )
