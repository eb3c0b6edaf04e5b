"""The Gaussians that the shifted diffusion starts from."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.metadata import OWNERS, materialized, training_metadata
from assets.versions import decided_by
from corgi_core.config import clusters_of, is_learned
from orchestration.resources.artifacts import ArrayStore, Dataset, GaussianBank
from orchestration.resources.compute import Compute
from orchestration.resources.trainer import DEVICE, Trainer
from orchestration.resources.workspace import Workspace

if TYPE_CHECKING:
    from corgi_core.gaussians.fit import BankFit

PASSED_OVER = 100  # embeddings, in the time in which one image is embedded


@dg.asset(
    group_name="gaussians",
    owners=OWNERS,
    kinds={"faiss", "pytorch", "ray", "mlflow"},
    pool=DEVICE,
    metadata=decided_by("gaussians", "seed", revision=6, partitions="variants"),
)
def gaussian_bank(
    context: dg.AssetExecutionContext,
    images: Dataset,
    image_embeddings: ArrayStore,
    text_embeddings: ArrayStore,
    workspace: Workspace,
    compute: Compute,
    trainer: Trainer,
) -> dg.MaterializeResult[GaussianBank]:
    """Fit k Gaussians to the training images' embeddings; N(0, I) for the baseline.

    A learned bank starts from the fitted one and goes on by equation (5), on all captioned
    training images. It is shared by the caption subsets, so a prior that reads 10 % of the captions
    has a learned bank that knows all of them; fitted banks know none.
    """
    from corgi_core.gaussians import bank as banks
    from corgi_core.gaussians import diagnostics, fit, learned
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
    if is_learned(variant):
        from corgi_core.data.keys import SplitKeys

        task = learned.BankTask(
            chosen, image_embeddings, text_embeddings,
            SplitKeys(images, "train"), SplitKeys(images, "test"), bank,
        )  # fmt: skip
        inputs = {"image_embeddings": image_embeddings, "text_embeddings": text_embeddings}
        trained = trainer.train(context, task, chosen.learning, f"bank-{variant}", inputs)
        bank = trained.model.to_bank()
        metadata |= training_metadata(trained)
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
