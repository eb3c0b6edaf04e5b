"""The Gaussians that the shifted diffusion starts from."""

import dagster as dg

from assets.metadata import OWNERS, materialized
from assets.versions import version
from corgi_core.presets import clusters_of
from orchestration.artifacts import ArrayStore, Dataset, GaussianBank
from orchestration.partitions import variants
from orchestration.resources.workspace import Workspace
from orchestration.settings import settings


@dg.asset(
    group_name="gaussians",
    owners=OWNERS,
    kinds={"faiss", "pytorch"},
    partitions_def=variants,
    code_version=version(settings().preset.digest("gaussians", "seed"), revision=2),
)
def gaussian_bank(
    context: dg.AssetExecutionContext,
    images: Dataset,
    image_embeddings: ArrayStore,
    text_embeddings: ArrayStore,
    workspace: Workspace,
) -> dg.MaterializeResult[GaussianBank]:
    """k Gaussians fitted to the training images' embeddings; N(0, I) for the baseline."""
    from corgi_core.gaussians import bank as banks
    from corgi_core.gaussians.diagnostics import effective_rank, modality_gap
    from corgi_core.gaussians.fit import fit_bank

    manifest, blocks = images.manifest, image_embeddings.spec["blocks"]
    train = manifest.loc[manifest["split"] == "train", "key"]
    embeddings = image_embeddings.read("image")[image_embeddings.rows_of(train)]
    k = clusters_of(context.partition_key)
    if k is None:
        bank = banks.GaussianBank.standard(blocks)
    else:
        preset = workspace.preset
        bank = fit_bank(embeddings, k, blocks, preset.gaussians.kappa, preset.seed)
    return materialized(
        bank,
        gaussians=bank.k,
        cluster_sizes=sorted(bank.sizes.tolist(), reverse=True),
        mean_deviation=float(bank.deviations.mean()),
        effective_rank=effective_rank(embeddings),
        width=bank.width,
        modality_gap=modality_gap(
            image_embeddings.read("image"), text_embeddings.read("text"), blocks
        ),
    )
