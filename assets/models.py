"""The models: a prior for every variant and caption subset, and the decoders that all share."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.metadata import OWNERS, materialized, training_metadata
from assets.versions import decided_by
from corgi_core.config import CascadeSettings
from orchestration.partitions import (
    CAPTIONED,
    COMPARISON,
    prior_of,
)
from orchestration.resources.artifacts import (
    ArrayStore,
    CaptionSubset,
    ClipEnsemble,
    Dataset,
    Decoder,
    FolderBacked,
    GaussianBank,
    PriorModel,
)
from orchestration.resources.trainer import DEVICE, Trainer
from orchestration.resources.workspace import Workspace

if TYPE_CHECKING:
    from corgi_core.decoders.task import DecoderTask

GROUP = "models"
KINDS = {"pytorch", "ray", "mlflow"}


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds=KINDS,
    pool=DEVICE,
    metadata=decided_by("prior", revision=5, partitions="priors"),
)
def prior(
    context: dg.AssetExecutionContext,
    images: Dataset,
    image_embeddings: ArrayStore,
    text_embeddings: ArrayStore,
    caption_subset: CaptionSubset,
    gaussian_bank: GaussianBank,
    workspace: Workspace,
    trainer: Trainer,
) -> dg.MaterializeResult[PriorModel]:
    """Caption → CLIP image embedding by (shifted) diffusion.

    Baseline and shifted priors have the same data, network, steps and seed; the bank of Gaussians
    alone differs.
    """
    from corgi_core.prior import model, task

    preset = workspace.preset
    training = task.PriorTask(
        settings=preset.prior,
        images=image_embeddings,
        texts=text_embeddings,
        captioned=caption_subset,
        test_keys=images.keys("test"),
        bank=gaussian_bank,
    )
    inputs: dict[str, FolderBacked] = {
        "image_embeddings": image_embeddings,
        "text_embeddings": text_embeddings,
        "caption_subset": caption_subset,
        "gaussian_bank": gaussian_bank,
    }
    variant, subset = prior_of(context.partition_key)
    name = f"prior-{variant}-{subset.removesuffix('%')}pc"
    trained = trainer.train(context, training, preset.prior.training, name, inputs)
    finished = model.PriorModel(
        trained.model, gaussian_bank, preset.prior, text_embeddings.spec, trained.card
    )
    return materialized(finished, captions=training.rows, **training_metadata(trained))


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={*KINDS, "diffusers"},
    pool=DEVICE,
    metadata=decided_by("decoders", revision=4, partitions="decoders"),
)
def decoder(
    context: dg.AssetExecutionContext,
    images: Dataset,
    pixels: ArrayStore,
    image_embeddings: ArrayStore,
    clip_encoder: ClipEnsemble,
    workspace: Workspace,
    trainer: Trainer,
) -> dg.MaterializeResult[Decoder]:
    """CLIP image embedding → picture; trained on all training images, no captions."""
    from corgi_core.decoders import registry

    settings = workspace.preset.decoder_of(context.partition_key)
    drawing = registry.decoder_task(
        settings,
        clip_encoder,
        pixels=pixels,
        embeddings=image_embeddings,
        train_keys=images.keys("train"),
        test_keys=images.keys("test"),
    )
    inputs: dict[str, FolderBacked] = {"pixels": pixels, "image_embeddings": image_embeddings}
    return trained_decoder(context, drawing, f"decoder-{settings.kind}", inputs, trainer)


@dg.asset(
    group_name=CAPTIONED,
    owners=OWNERS,
    kinds={*KINDS, "diffusers"},
    pool=DEVICE,
    metadata=decided_by("decoders", revision=1, partitions="caption_subsets"),
)
def captioned_decoder(
    context: dg.AssetExecutionContext,
    images: Dataset,
    pixels: ArrayStore,
    image_embeddings: ArrayStore,
    text_embeddings: ArrayStore,
    caption_subset: CaptionSubset,
    workspace: Workspace,
    trainer: Trainer,
) -> dg.MaterializeResult[Decoder]:
    """The paper's image-and-text decoder: a cascade that reads captions beside the embedding.

    All training images teach it, those outside the caption subset by their embeddings alone.
    """
    from corgi_core.decoders.cascade import task

    cascade = workspace.preset.decoder_of("cascade")
    assert isinstance(cascade, CascadeSettings)
    drawing = task.CascadeTask(
        settings=replace(cascade, text_width=text_embeddings.spec["text_width"]),
        pixels=pixels,
        embeddings=image_embeddings,
        train_keys=images.keys("train"),
        test_keys=images.keys("test"),
        texts=text_embeddings,
        captioned=caption_subset.keys,
    )
    inputs: dict[str, FolderBacked] = {
        "pixels": pixels,
        "image_embeddings": image_embeddings,
        "text_embeddings": text_embeddings,
        "caption_subset": caption_subset,
    }
    name = f"decoder-captions-{context.partition_key.removesuffix('%')}pc"
    return trained_decoder(context, drawing, name, inputs, trainer)


@dg.asset(
    group_name=COMPARISON,
    owners=OWNERS,
    kinds={*KINDS, "diffusers"},
    pool=DEVICE,
    metadata=decided_by("decoders", "language_free", revision=3, partitions="decoders"),
)
def language_free_decoder(
    context: dg.AssetExecutionContext,
    images: Dataset,
    pixels: ArrayStore,
    image_embeddings: ArrayStore,
    clip_encoder: ClipEnsemble,
    decoder: Decoder,
    workspace: Workspace,
    trainer: Trainer,
) -> dg.MaterializeResult[Decoder]:
    """The decoder, fine-tuned on the images of one source, none of whose captions anybody sees.

    With a prior of the caption subset "0%", which knows the other sources' captions alone, it
    draws texts as this source would.
    """
    from corgi_core.decoders import registry
    from corgi_core.decoders.task import FineTuning

    settings, free = workspace.preset.decoder_of(context.partition_key), workspace.language_free
    drawing = registry.decoder_task(
        replace(settings, training=free.tuned(settings.training)),
        clip_encoder,
        pixels=pixels,
        embeddings=image_embeddings,
        train_keys=images.keys("train"),
        test_keys=images.keys("test", free.source),
        tuning=FineTuning(decoder, images.keys("train", free.source)),
    )
    inputs: dict[str, FolderBacked] = {
        "pixels": pixels, "image_embeddings": image_embeddings, "decoder": decoder
    }  # fmt: skip
    name = f"decoder-{settings.kind}-{free.source}"
    return trained_decoder(context, drawing, name, inputs, trainer)


def trained_decoder(
    context: dg.AssetExecutionContext,
    drawing: "DecoderTask[Any, Any]",
    name: str,
    inputs: Mapping[str, FolderBacked],
    trainer: Trainer,
) -> dg.MaterializeResult[Decoder]:
    """Train a decoder; it, with what Dagster shows of the training."""
    training = drawing.settings.training
    trained = trainer.train(context, drawing, training, name, inputs)
    finished = drawing.decoder(trained.model, trained.card)
    shown = drawing.order.unique()
    return materialized(finished, images=len(shown), **training_metadata(trained))
