"""The Gaussians that the shifted diffusion starts from."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.metadata import OWNERS, materialized
from assets.versions import decided_by
from corgi_core.config import clusters_of
from orchestration.resources.artifacts import ArrayStore, Dataset, FolderBacked, GaussianBank
from orchestration.resources.compute import Compute
from orchestration.resources.trainer import DEVICE, Trained, Trainer
from orchestration.resources.workspace import Workspace

if TYPE_CHECKING:
    from corgi_core.data.keys import KeySet
    from corgi_core.gaussians.fit import BankFit
    from corgi_core.gaussians.learned import LearnedBank

PASSED_OVER = 100  # embeddings, in the time in which one image is embedded


@dg.asset(
    group_name="gaussians",
    owners=OWNERS,
    kinds={"faiss", "pytorch", "ray"},
    pool=DEVICE,
    metadata=decided_by("gaussians", "seed", revision=7, partitions="variants"),
)
def gaussian_bank(
    context: dg.AssetExecutionContext,
    images: Dataset,
    image_embeddings: ArrayStore,
    text_embeddings: ArrayStore,
    workspace: Workspace,
    compute: Compute,
) -> dg.MaterializeResult[GaussianBank]:
    """Fit k Gaussians to the training images' embeddings; N(0, I) for the baseline.

    It knows no caption, so the caption subsets share it. A prior whose bank is learned starts from
    this one, see `learned_bank`.
    """
    from corgi_core.gaussians import bank as banks
    from corgi_core.gaussians import diagnostics, fit
    from corgi_core.gaussians.stream import EmbeddingStream

    variant, chosen = context.partition_key, workspace.preset.gaussians
    encoder_dims, seed = image_embeddings.spec["encoder_dims"], workspace.preset.seed
    training = EmbeddingStream.of_split(images, image_embeddings, "train")
    mapped = compute.map_images(training.count // PASSED_OVER)
    metadata: dict[str, Any] = {}
    k = clusters_of(variant)
    if k is None:
        bank = banks.GaussianBank.standard(encoder_dims)
    else:
        bank, fitted = fit.fit_bank(training, k, encoder_dims, chosen, seed, mapped)
        metadata |= fit_metadata(fitted)
    every_image = EmbeddingStream.of_store(image_embeddings, "image")
    every_text = EmbeddingStream.of_store(text_embeddings, "text")
    return materialized(
        bank,
        gaussians=bank.k,
        cluster_sizes=sorted(bank.sizes.tolist(), reverse=True),
        mean_std=float(bank.std.mean()),
        choice=bank.choice,
        width=bank.width,
        effective_rank=diagnostics.effective_rank(training, mapped=mapped),
        modality_gap=diagnostics.modality_gap(every_image, every_text, encoder_dims, mapped),
        **metadata,
    )


def learned_bank(
    context: dg.AssetExecutionContext,
    fitted: GaussianBank,
    captioned: "KeySet",
    images: Dataset,
    image_embeddings: ArrayStore,
    text_embeddings: ArrayStore,
    name: str,
    workspace: Workspace,
    trainer: Trainer,
) -> "Trained[LearnedBank]":
    """Learn a bank by equation (5) from the captions of a caption subset, and no others.

    It starts from the fitted bank, which knows none. The run is called `name`.
    """
    from corgi_core.data.keys import SplitKeys
    from corgi_core.gaussians.learned import BankTask

    settings, test = workspace.preset.gaussians, SplitKeys(images, "test")
    task = BankTask(settings, image_embeddings, text_embeddings, captioned, test, fitted)
    inputs: dict[str, FolderBacked] = {
        "image_embeddings": image_embeddings,
        "text_embeddings": text_embeddings,
        "gaussian_bank": fitted,
    }
    return trainer.train(context, task, settings.learning, name, inputs)


def fit_metadata(fitted: "BankFit") -> dict[str, Any]:
    """What a fit reports of itself."""
    return {
        "warnings": "; ".join(fitted.warnings) or None,
        "embeddings": fitted.embeddings,
        "kmeans_sample": fitted.kmeans_sample,
        "small_clusters": fitted.small_clusters,
        "kmeans_seconds": round(fitted.kmeans_seconds, 2),
        "moments_seconds": round(fitted.moments_seconds, 2),
    }
