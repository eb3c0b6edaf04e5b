"""The models: a prior for every variant and caption subset, and the decoders that all share."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.gaussians import caption_gaussians, learned_bank
from assets.metadata import OWNERS, materialized, trainings_metadata
from assets.versions import decided_by
from corgi_core.config import (
    PriorSettings,
    TrainingSettings,
    fraction_of,
    is_learned,
    is_of_captions,
)
from corgi_core.data.splits import TRAIN, VALIDATION
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
    SplitOverlap,
)
from orchestration.resources.trainer import DEVICE, Plan, Trained, Trainer, joint_card
from orchestration.resources.warm_start import (
    BUDGET,
    CONTINUES_FROM,
    SCRATCH,
    ParentModel,
    WarmStart,
    last_training,
    speed_of,
)
from orchestration.resources.workspace import Workspace

if TYPE_CHECKING:
    from corgi_core.data.keys import KeySet
    from corgi_core.decoders.task import DecoderTask
    from corgi_core.gaussians.caption_conditioned import CaptionGaussians
    from corgi_core.prior.task import PriorTask

GROUP = "models"
KINDS = {"pytorch", "ray", "mlflow"}


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds=KINDS,
    pool=DEVICE,
    metadata=decided_by("prior", "gaussians", revision=10, partitions="priors"),
)
def prior(
    context: dg.AssetExecutionContext,
    config: WarmStart,
    images: Dataset,
    image_embeddings: ArrayStore,
    text_embeddings: ArrayStore,
    caption_subset: CaptionSubset,
    gaussian_bank: GaussianBank,
    split_overlap: SplitOverlap,
    workspace: Workspace,
    trainer: Trainer,
) -> dg.MaterializeResult[PriorModel]:
    """Caption → CLIP image embedding by (shifted) diffusion.

    Baseline and shifted priors have the same data, network, steps and seed; the bank of Gaussians
    alone differs. A learned bank is learned first, from the captions that the prior reads; a
    Gaussian for every caption is fitted to them. All
    settings of `gaussians` count for every prior: where one changes, all priors are trained again.
    With the parent "champion" in its configuration it continues from the best prior of its caption
    fraction, for a quarter of the steps or for a budget in steps or minutes.
    """
    from corgi_core.prior.matching import matched_prior

    inputs: dict[str, Any] = {
        "image_embeddings": image_embeddings, "text_embeddings": text_embeddings,
        "caption_subset": caption_subset, "gaussian_bank": gaussian_bank,
        "split_overlap": split_overlap,
    }  # fmt: skip
    task, parts = _train_prior(context, config, images, inputs, workspace, trainer)
    trained = parts[""]
    model = matched_prior(task, trained.model, trained.card)
    start = {CONTINUES_FROM: trained.card.get("parent", SCRATCH), BUDGET: config.budget}
    return materialized(model, captions=task.rows, **start, **trainings_metadata(parts))


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={*KINDS, "diffusers"},
    pool=DEVICE,
    deps=["image_splits"],
    metadata=decided_by("decoders", revision=9, partitions="decoders"),
)
def decoder(
    context: dg.AssetExecutionContext,
    pixels: ArrayStore,
    image_embeddings: ArrayStore,
    clip_encoder: ClipEnsemble,
    workspace: Workspace,
    trainer: Trainer,
) -> dg.MaterializeResult[Decoder]:
    """CLIP image embedding → image; trained on all training images, without captions.

    A cascade's stages are trained one after the other.
    """
    from corgi_core.decoders.registry import decoder_task

    settings = workspace.preset.decoder_of(context.partition_key)
    material = _images(workspace.images, pixels, image_embeddings)
    task = decoder_task(settings, clip_encoder, **material)
    inputs: dict[str, FolderBacked] = {"pixels": pixels, "image_embeddings": image_embeddings}
    labels = {"decoder": settings.kind}
    return _train_decoder(context, trainer, task, f"decoder-{settings.kind}", inputs, labels)


@dg.asset(
    group_name=CAPTIONED,
    owners=OWNERS,
    kinds={*KINDS, "diffusers"},
    pool=DEVICE,
    metadata=decided_by("decoders", revision=6, partitions="captioned_decoders"),
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

    It learns from all training images, from those outside the caption subset without captions.
    """
    from corgi_core.decoders.cascade.task import CascadeTask

    settings = replace(workspace.preset.cascade, text_width=text_embeddings.spec["text_width"])
    material = _images(images, pixels, image_embeddings)
    captioned = caption_subset.of(images)
    task = CascadeTask(settings, **material, texts=text_embeddings, captioned=captioned)
    inputs: dict[str, FolderBacked] = {
        "pixels": pixels, "image_embeddings": image_embeddings,
        "text_embeddings": text_embeddings, "caption_subset": caption_subset,
    }  # fmt: skip
    name = f"decoder-captions-{_percent(context.partition_key)}"
    labels = {"decoder": settings.kind, "caption_fraction": fraction_of(context.partition_key)}
    return _train_decoder(context, trainer, task, name, inputs, labels)


@dg.asset(
    group_name=COMPARISON,
    owners=OWNERS,
    kinds={*KINDS, "diffusers"},
    pool=DEVICE,
    deps=["image_splits"],
    metadata=decided_by(
        "decoders", "language_free", revision=8, partitions="language_free_decoders"
    ),
)
def language_free_decoder(
    context: dg.AssetExecutionContext,
    pixels: ArrayStore,
    image_embeddings: ArrayStore,
    clip_encoder: ClipEnsemble,
    decoder: Decoder,
    workspace: Workspace,
    trainer: Trainer,
) -> dg.MaterializeResult[Decoder]:
    """The decoder, fine-tuned on the images of one source, without any of their captions.

    With a prior of the caption subset "0%", which is trained on the other sources' captions, it
    generates images in the style of this source.
    """
    from corgi_core.data.keys import SplitKeys
    from corgi_core.decoders.registry import decoder_task
    from corgi_core.decoders.task import FineTuning

    settings, free = workspace.preset.decoder_of(context.partition_key), workspace.language_free
    material = _images(workspace.images, pixels, image_embeddings, free.source)
    tuning = FineTuning(decoder, SplitKeys(material["dataset"], TRAIN, free.source))
    task = decoder_task(settings.shortened(free.tuning), clip_encoder, **material, tuning=tuning)
    inputs: dict[str, FolderBacked] = {
        "pixels": pixels, "image_embeddings": image_embeddings, "decoder": decoder
    }  # fmt: skip
    name, labels = f"decoder-{settings.kind}-{free.source}", {"decoder": settings.kind}
    return _train_decoder(context, trainer, task, name, inputs, labels)


def _train_prior(
    context: dg.AssetExecutionContext,
    start: WarmStart,
    images: Dataset,
    inputs: Mapping[str, Any],
    workspace: Workspace,
    trainer: Trainer,
) -> "tuple[PriorTask, dict[str, Trained[Any]]]":
    """A prior's task, and its trainings: "" and, where its bank is learned first, "bank"."""
    from corgi_core.data.keys import validation_keys

    (variant, subset), settings = prior_of(context.partition_key), workspace.preset.prior
    counting = validation_keys(images, inputs["split_overlap"].left_out)
    keys = inputs["caption_subset"].of(images), counting
    parent, training = _start_of(context, start, settings, trainer)
    bank, parts = inputs["gaussian_bank"], dict[str, Trained[Any]]()
    labels: dict[str, Any] = {
        "variant": variant, "caption_fraction": fraction_of(subset),
        "k": bank.k, "kappa": bank.kappa,
    }  # fmt: skip
    if is_learned(variant):
        parts["bank"] = learned_bank(
            context, bank, *keys, inputs["image_embeddings"],
            inputs["text_embeddings"], f"bank-{variant}-{_percent(subset)}", labels, workspace,
            trainer,
        )  # fmt: skip
        bank = parts["bank"].model.to_bank()
    if is_of_captions(variant):
        bank = caption_gaussians(
            context, bank, *keys, inputs["image_embeddings"], inputs["text_embeddings"],
            workspace, trainer.compute,
        )  # fmt: skip
    task = _prior_task(settings, *keys, inputs["image_embeddings"], inputs["text_embeddings"], bank)
    name = f"prior-{variant}-{_percent(subset)}"
    if parent is not None:
        task = replace(task, parent=parent.load())
        name += "-retrained"  # other runs than those that are compared by seed
    labels["captions"] = task.rows
    parts[""] = trainer.train(context, task, training, name, inputs, labels, continued=parent)
    return task, parts


def _start_of(
    context: dg.AssetExecutionContext, start: WarmStart, settings: PriorSettings, trainer: Trainer
) -> tuple[ParentModel | None, TrainingSettings]:
    """What a prior's training continues from, if anything, and its settings within the budget."""
    start.check()
    variant, subset = prior_of(context.partition_key)
    models_file = Path(trainer.mlflow.models_file)
    parent = ParentModel.champion(models_file, subset, variant) if start.parent else None
    generation = parent.generation + 1 if parent else 0
    speed = speed_of(last_training(context.instance, context.asset_key, context.partition_key))
    return parent, start.training(settings.training, generation, speed)


def _prior_task(
    settings: PriorSettings,
    captioned: "KeySet",
    validation: "KeySet",
    image_embeddings: ArrayStore,
    text_embeddings: ArrayStore,
    gaussian_bank: "GaussianBank | CaptionGaussians",
) -> "PriorTask":
    """The training of a prior on the images whose captions may be used."""
    from corgi_core.prior.task import PriorTask

    return PriorTask(
        settings=settings,
        images=image_embeddings,
        texts=text_embeddings,
        captioned=captioned,
        validation_keys=validation,
        bank=gaussian_bank,
    )


def _images(
    images: Dataset, pixels: ArrayStore, image_embeddings: ArrayStore, source: str | None = None
) -> dict[str, Any]:
    """What every `DecoderTask` learns from: all training images; held out, those of the source."""
    from corgi_core.data.keys import SplitKeys

    return {
        "pixels": pixels,
        "dataset": images,
        "embeddings": image_embeddings,
        "train_keys": SplitKeys(images, TRAIN),
        "validation_keys": SplitKeys(images, VALIDATION, source),
    }


def _train_decoder(
    context: dg.AssetExecutionContext,
    trainer: Trainer,
    task: "DecoderTask[Any, Any]",
    name: str,
    inputs: Mapping[str, FolderBacked],
    labels: Mapping[str, Any],
) -> dg.MaterializeResult[Decoder]:
    """Train a decoder, part after part; the decoder, with what Dagster displays of the trainings.

    Parts that are finished are not trained again.
    """
    parts = task.parts()
    plans = {part: Plan(each, each.training_settings) for part, each in parts.items()}
    trained = trainer.train_in_turn(context, plans, name, inputs, labels)
    decoder = task.assembled([each.model for each in trained.values()], joint_card(trained))
    images = task.image_count
    return materialized(decoder, images=images, **trainings_metadata(trained))


def _percent(caption_subset: str) -> str:
    """A caption subset as a part of a run's name: "1.7%" is "1.7pc"."""
    return caption_subset.replace("%", "pc")
