"""The Gaussians that the shifted diffusion starts from."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.metadata import OWNERS, bank_metadata, materialized
from assets.versions import decided_by
from corgi_core.data.splits import TRAIN
from orchestration.resources.artifacts import ArrayStore, Dataset, FolderBacked, GaussianBank
from orchestration.resources.compute import Compute
from orchestration.resources.trainer import DEVICE, Trained, Trainer
from orchestration.resources.workspace import Workspace

if TYPE_CHECKING:
    from corgi_core.data.keys import KeySet
    from corgi_core.gaussians.caption_conditioned import CaptionGaussians
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
    this one, see `learned_bank`, and one with a Gaussian for every caption, see
    `caption_gaussians`.
    """
    from corgi_core.gaussians import diagnostics, fit
    from corgi_core.gaussians.stream import EmbeddingStream

    preset, dims = workspace.preset, image_embeddings.spec["encoder_dims"]
    training = EmbeddingStream.of_split(images, image_embeddings, TRAIN)
    mapped = compute.map_images(training.count // PASSED_OVER)
    bank, fitted = fit.bank_of(context.partition_key, training, dims, preset, mapped)
    spread = diagnostics.diagnostics_of(training, image_embeddings, text_embeddings, mapped)
    return materialized(bank, **bank_metadata(bank, fitted) | spread)


def learned_bank(
    context: dg.AssetExecutionContext,
    fitted: GaussianBank,
    captioned: "KeySet",
    validation: "KeySet",
    image_embeddings: ArrayStore,
    text_embeddings: ArrayStore,
    name: str,
    labels: Mapping[str, Any],
    workspace: Workspace,
    trainer: Trainer,
) -> "Trained[LearnedBank]":
    """Learn a bank by equation (5) from the captions of a caption subset, and no others.

    It starts from the fitted bank, which knows none, and is watched on the validation images. The
    run has that name and those labels.
    """
    from corgi_core.gaussians.learned import BankTask

    settings = workspace.preset.gaussians
    task = BankTask(settings, image_embeddings, text_embeddings, captioned, validation, fitted)
    inputs: dict[str, FolderBacked] = {
        "image_embeddings": image_embeddings,
        "text_embeddings": text_embeddings,
        "gaussian_bank": fitted,
    }
    return trainer.train(context, task, settings.learning, name, inputs, labels)


def caption_gaussians(
    context: dg.AssetExecutionContext,
    of_images: GaussianBank,
    captioned: "KeySet",
    validation: "KeySet",
    image_embeddings: ArrayStore,
    text_embeddings: ArrayStore,
    workspace: Workspace,
    compute: Compute,
) -> "CaptionGaussians":
    """A Gaussian for every caption, fitted to the captions of a caption subset in one pass.

    Validation captions choose the penalty. Dropped captions start from the one Gaussian of all
    images, which knows no caption.
    """
    from corgi_core.prior.caption_fit import fit_caption_gaussians

    settings = workspace.preset.gaussians
    mapped = compute.map_images(len(text_embeddings) // PASSED_OVER)
    gaussians, fit = fit_caption_gaussians(
        captioned, validation, image_embeddings, text_embeddings, of_images, settings, mapped
    )
    context.log.info(f"a Gaussian for every caption: {fit}")
    return gaussians
