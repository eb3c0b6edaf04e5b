"""The schema of every setting: names, types, bounds and defaults, one class a section of a preset.

A section is a frozen dataclass that pydantic validates, so `dataclasses.replace` validates too.
Fields with `compare=False` decide only how a result is computed: they are in no digest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields, is_dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, cast

from pydantic import AfterValidator, ConfigDict, Field, SerializeAsAny, TypeAdapter
from pydantic.dataclasses import dataclass

from corgi_core.config.variants import (
    CAPTION_SUBSETS,
    VARIANTS,
    valid_caption_subset,
    valid_variant,
)
from corgi_core.errors import CorgiError
from corgi_core.io.files import digest_of

S = TypeVar("S")

CLOSED = ConfigDict(extra="forbid")  # an unknown setting is an error
# fields of a cascade's stage that replace those of the cascade's training
STAGE_TRAINING = ("steps", "batch_size", "learning_rate", "accumulation")
TRAINED = ("trained",)  # stands for encoders that are trained on the data, not named
FITTED = ("fitted",)  # stands for text towers that are fitted to precomputed embeddings

Count = Annotated[int, Field(strict=True, ge=1)]
Whole = Annotated[int, Field(strict=True, ge=0)]  # a seed, or a number that may be none
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
Bits = Annotated[int, Field(strict=True, ge=0, le=64)]
TwinBits = Annotated[int, Field(strict=True, ge=0, le=6)]  # more would take quadratic time
Cosine = Annotated[float, Field(strict=True, ge=-1, le=1)]
Decay = Annotated[float, Field(strict=True, ge=0, lt=1)]
GpuShare = Annotated[float, Field(strict=True, gt=0, le=1)]
Switch = Annotated[bool, Field(strict=True)]
Variant = Annotated[str, AfterValidator(valid_variant)]
CaptionSubset = Annotated[str, AfterValidator(valid_caption_subset)]
Sampler = Literal["ddpm", "ddim", "dpm++", "unipc"]
InferencePrecision = Literal["auto", "bf16", "tf32", "fp32"]
TextFeatures = Literal["cached", "online"]
PixelSource = Literal["stored", "online"]
Framing = Literal["letterbox", "crop"]


@dataclass(frozen=True, config=CLOSED)
class TrainingSettings:
    """One optimiser run, for every model alike (AdamW, warm-up, then cosine decay)."""

    steps: Count
    batch_size: Count  # global, over all workers
    learning_rate: NonNegative
    warmup_steps: Whole = 50
    weight_decay: NonNegative = 0.06
    betas: tuple[Decay, Decay] = (0.9, 0.96)
    epsilon: Positive = 1e-6
    clip_norm: Positive = 1.0
    ema_decay: Decay = 0.999
    # "bf16" (autocast); "auto" is bf16 where the hardware has instructions for it, else fp32
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    # rows that are shuffled together, an epoch's shards being permuted; all, where there are fewer
    shuffle_window: Count = 1_048_576
    # how it is computed, like the number of workers: no part of a run's identity
    accumulation: Count = field(default=1, compare=False)  # microbatches of a worker's batch
    compile: Switch = field(default=False, compare=False)  # torch.compile: slow first, then faster
    cache_gigabytes: Positive = field(default=50.0, compare=False)  # a machine's disk for s3://
    # that decode images for a worker (pixels: online); None: its cores but one, for a GPU
    loader_processes: Whole | None = field(default=None, compare=False)
    checkpoint_every: Count = 200  # steps
    evaluate_every: Count = 200  # steps
    seed: Whole = 0


@dataclass(frozen=True, config=CLOSED)
class DataSettings:
    """Where images and captions come from, and what the quality gate lets pass."""

    source: str = "emoji"  # the reader of the asset `raw_images`
    limit: Count | None = None  # keep this many images, chosen by key
    shard_size: Count = 1000  # images
    test_fraction: Share = 0.1  # of the groups; reports are of them
    validation_fraction: Share = 0.05  # of the groups; models are chosen on them
    max_pixels: Count = 50_000_000  # larger images are refused (decompression bombs)
    max_side: Count = 1024  # pixels; larger images are scaled down by the gate
    # Images whose perceptual hashes differ in at most so many of 64 bits are in one split; None:
    # near twins are not looked for.
    twin_bits: TwinBits | None = 4
    # A held-out image does not count if the cosine of its embedding to that of an image in another
    # split is at least this; None: embeddings are not compared.
    twin_cosine: Cosine | None = 0.96

    def __post_init__(self) -> None:
        if self.test_fraction + self.validation_fraction >= 1:
            raise CorgiError(
                f"data.test_fraction ({self.test_fraction:g}) and data.validation_fraction "
                f"({self.validation_fraction:g}) leave nothing for training",
                "set data.test_fraction and data.validation_fraction to less than 1 together",
            )


@dataclass(frozen=True, config=CLOSED)
class EncoderSettings:
    """The frozen encoders of images and captions.

    `clip` names open_clip encoders ("ViT-B-16/openai", "hf-hub:…", a local folder), or is
    ("trained",): then the asset `clip_encoder` trains one on the training split. For precomputed
    embeddings the names are of encoders whose own text towers are used; ("trained",) is for those
    that the embeddings name, and where they name none, text towers are fitted; ("fitted",) fits.
    """

    clip: Annotated[tuple[str, ...], Field(min_length=1)]
    text: str  # "minilm" (in the installed package), a transformers id or a local folder
    text_tokens: Count  # at most this many tokens a caption
    # of the trained encoder, whose image tower is CLIP's ModifiedResNet:
    image_size: Count  # pixels, a multiple of 32
    width: Count  # d
    tower_layers: tuple[Count, Count, Count, Count]  # bottlenecks at each resolution
    tower_channels: Count  # at the highest resolution; the last has 32 times as many
    training: TrainingSettings | None


@dataclass(frozen=True, config=CLOSED)
class GaussianSettings:
    """The banks of Gaussians that the shifted priors start from."""

    kappa: Positive = 1.0  # scale of the fitted deviations
    # A caption's Gaussian has the nearest mean, or is nearest by "expectation" over …
    choice: Literal["means", "expectation"] = "means"
    choice_samples: Count = 64  # … this many samples of each Gaussian
    points_per_gaussian: Count = 32  # with fewer embeddings than k times this, k is scaled down
    xi: NonNegative = 0.1  # ξ of equation (5): how strongly a learned bank's means are separated
    # of shifted-text: the weight of a contrastive term in a caption's mean; it buys retrieval
    contrast: NonNegative = 0.1
    learning: TrainingSettings = field(  # of a learned bank
        default_factory=lambda: TrainingSettings(
            steps=300, batch_size=256, learning_rate=1e-2, weight_decay=0.0, ema_decay=0.99,
            epsilon=1e-12, precision="fp32",  # a mean that few captions choose has tiny gradients
        )
    )  # fmt: skip


@dataclass(frozen=True, config=CLOSED)
class PriorSettings:
    """The prior: a causal transformer from a caption to an image embedding."""

    width: Count
    layers: Count
    heads: Count
    noise_samples: Count  # independent samples of (t, noise) a caption, which share one text prefix
    cond_dropout: Share  # probability of hiding the caption, for classifier-free guidance
    p2_gamma: NonNegative  # of the P2 weights, equation (4)
    guidance: NonNegative
    num_steps: Count  # of sampling
    training: TrainingSettings
    # the weight of a contrastive term beside the loss: it buys retrieval with cosine and diversity
    contrast: NonNegative = 0.0
    # how far samples are moved to the mean and covariance of the training images; 1 is all the way
    matched: Share = 0.0
    loss: Literal["simplified", "kl"] = "simplified"  # equation (4), or the KL that it simplifies
    sampler: Sampler = "ddpm"
    checkpoint_activations: Switch = False  # compute activations again in the backward pass


@dataclass(frozen=True, kw_only=True, config=CLOSED)
class DecoderSettings:
    """What every decoder has. `kind` is its name, a key of `DECODER_SETTINGS`."""

    kind: ClassVar[str]

    image_size: Count  # pixels
    cond_dropout: Share  # probability of hiding the embedding, for guidance
    perturbed: Share  # of the training embeddings, made as uncertain as a prior's are …
    min_cosine: Cosine  # … down to this cosine to the true one
    balanced: Switch = True  # near twins count as one image: all others are used more often
    guidance: NonNegative
    num_steps: Count  # of sampling
    training: TrainingSettings

    def shortened(self, share: float) -> Self:
        """These settings, with a share of the steps and of the learning rate of all training."""
        training = self.training
        return replace(
            self,
            training=replace(
                training,
                steps=round(share * training.steps),
                learning_rate=share * training.learning_rate,
            ),
        )


@dataclass(frozen=True, kw_only=True, config=CLOSED)
class PCASettings(DecoderSettings):
    """Diffusion over the images' principal components."""

    kind: ClassVar[str] = "pca"

    components: Count  # of the training images
    width: Count  # of the residual blocks
    vectors: Count  # the embedding is projected to this many vectors, one for each residual block
    vector_width: Count
    noise_shift: Real  # of the cosine schedule's log SNR; negative is more noise


@dataclass(frozen=True, kw_only=True, config=CLOSED)
class StageSettings:
    """One stage of a cascade: the UNet that decodes images of one size."""

    size: int  # pixels, a multiple of the stage's before and of 2^(levels − 1)
    channels: tuple[int, ...]  # at each level, from the full resolution down; multiples of 8
    layers: Count  # residual blocks at each level
    attention_levels: Whole  # levels with attention, from the last up; 0 is convolutions alone
    noise_shift: Real  # of the cosine schedule's log SNR; negative is more noise
    crop: Count | None = None  # pixels to a side of the squares that it is trained on; None: all
    # Of its own training, where they differ from the cascade's:
    steps: Count | None = None
    batch_size: Count | None = None
    learning_rate: NonNegative | None = None
    accumulation: Count | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True, config=CLOSED)
class CascadeSettings(DecoderSettings):
    """Diffusion UNets, each conditioned on the smaller image of the one before.

    They are trained one after the other, each by `training` with what its stage changes of it.
    """

    kind: ClassVar[str] = "cascade"

    stages: tuple[StageSettings, ...]  # the last one's size is the image_size
    vectors: Count  # the embedding is projected to this many, for cross-attention
    vector_width: Count
    prediction: Literal["v", "epsilon", "x0"]  # of the UNets
    condition_noise: Share  # most noise on the smaller image in training …
    sampling_noise: Share  # … and how much in sampling
    text_width: Count | None = None  # of the captions' tokens, where captions are a condition too
    text_dropout: Share = 0.1  # probability of hiding the tokens alone
    tile: Count = 384  # pixels; an image without memory for it is denoised in tiles of this size …
    overlap: Whole = 64  # … which overlap by this many
    # GB that an image may take; None: what the device has free. It changes no training.
    sampling_memory: Positive | None = field(default=None, compare=False)

    def training_of(self, stage: int) -> TrainingSettings:
        """How the stage of that number is trained."""
        own = {name: getattr(self.stages[stage], name) for name in STAGE_TRAINING}
        return replace(self.training, **{k: v for k, v in own.items() if v is not None})

    def shortened(self, share: float) -> Self:
        """These settings, with a share of the steps and of the learning rate of all training."""
        stages = tuple(
            replace(
                stage,
                steps=stage.steps and round(share * stage.steps),
                learning_rate=stage.learning_rate and share * stage.learning_rate,
            )
            for stage in self.stages
        )
        return replace(super().shortened(share), stages=stages)


@dataclass(frozen=True, kw_only=True, config=CLOSED)
class GanSettings(DecoderSettings):
    """A StyleGAN2 that is conditioned on the embedding: one step, and no guidance."""

    kind: ClassVar[str] = "gan"

    cond_dropout: Share = 0.0
    guidance: NonNegative = 1.0
    num_steps: Count = 1

    latent_width: Count
    channel_base: Count  # there are channel_base / side channels at the resolution side × side …
    max_channels: Count  # … but no more than this
    clip_weight: NonNegative  # of the contrastive loss by CLIP, for the generator …
    layout_weight: NonNegative  # of the squared error at 16 × 16 pixels, for the generator
    semantic_weight: NonNegative  # … and of that by the discriminator's features, for both
    r1_gamma: NonNegative  # γ of the gradient penalty …
    r1_interval: Count = 16  # … which is taken at every such step
    path_weight: NonNegative = 2.0  # of the path length penalty …
    path_interval: Count = 4  # … which is taken at every such step
    augment_target: Real = 0.6  # mean sign of the scores of real images, by augmenting them …
    augment_pictures: Count = 500_000  # … this many images take the probability from 0 to 1


@dataclass(frozen=True, kw_only=True, config=CLOSED)
class LafiteSettings(GanSettings):
    """The GAN trained on pseudo text embeddings, language-free: the paper's baseline."""

    kind: ClassVar[str] = "lafite"

    perturbed: Share = 0.0  # `perturbation` takes its part
    min_cosine: Cosine = 1.0
    perturbation: NonNegative = 0.1  # ξ, the pseudo text's distance from the image, in its norm


@dataclass(frozen=True, kw_only=True, config=CLOSED)
class StableDiffusionSettings(DecoderSettings):
    """Stable Diffusion 2, with the embedding in place of the text."""

    kind: ClassVar[str] = "stable_diffusion"

    cond_dropout: Share = 0.1
    perturbed: Share = 0.5
    min_cosine: Cosine = 0.7
    guidance: NonNegative = 3.0
    num_steps: Count = 25
    training: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(
            steps=5000, batch_size=32, learning_rate=1e-4, weight_decay=0.01, warmup_steps=200,
            evaluate_every=1000, checkpoint_every=500,
        )
    )  # fmt: skip

    pretrained: str  # a hub id, or the folder of a diffusers pipeline (unet, vae, scheduler)
    fine_tuning: Literal["full", "lora", "projection"] = "lora"  # beside the projection
    lora_rank: Count = 16
    lora_alpha: Count = 16  # the adapters' output is scaled by alpha / rank
    # What guidance starts from: the embedding "mean" of the training images, a black image's
    # ("zero"), or the prior's for the empty caption ("prior"; until there is one, the mean).
    negative: Literal["mean", "zero", "prior"] = "mean"
    checkpoint_activations: Switch = field(default=False, compare=False)  # slower, less memory


DECODER_SETTINGS: dict[str, type[DecoderSettings]] = {
    kind.kind: kind
    for kind in (PCASettings, CascadeSettings, GanSettings, LafiteSettings, StableDiffusionSettings)
}
"""Kind → class of its settings; `corgi_core.decoders.registry.register` adds to it."""


@dataclass(frozen=True, config=CLOSED)
class EvaluationSettings:
    """The protocol under which priors and the decoder are compared."""

    steps: tuple[Count, ...] = (1, 2, 4, 8, 16, 64)  # of the prior's sampler
    captions: Count = 30_000  # held-out images whose captions priors are scored on, at most
    images: Count = 256  # of them, decoded for the Fréchet distance and CLIP similarity, at most
    grid_rows: Count = 12
    grid_seeds: Count = 3  # pictures of each of the grids' captions on the report's page
    # A test image has a near neighbour if the cosine to a training image is at least `near_cosine`.
    near_cosine: Cosine = 0.9
    # It also has one if at most `near_bits` of the 64 bits of their perceptual hashes differ and
    # their cosine is at least `near_hash_cosine`.
    near_bits: Bits = 8
    near_hash_cosine: Cosine = 0.8
    # COCO's annotation file of the evaluated captions, which the protocols of COCO demand: either
    # captions_val2014.json as it was published, or the file of this SHA-256.
    captions_file: str | None = None
    captions_sha256: str | None = None
    inception_weights: str | None = None  # a TorchScript Inception; without it, the preset's CLIP
    dinov2_weights: str | None = None  # the folder of a DINOv2, as transformers saves it
    # Folders of priors that stand beside: of diffusers pipelines, or of the paper's authors.
    other_priors: tuple[str, ...] = ()
    # Of the decoder, with which pictures are scored too. One chosen there is chosen on test images.
    guidances: tuple[NonNegative, ...] = ()
    seed: Whole = 0


@dataclass(frozen=True, config=CLOSED)
class StudySettings:
    """The study of the prior: what is varied, one thing at a time, and how it is measured."""

    training: TrainingSettings = field(  # of every arm; the seed is the arm's
        default_factory=lambda: TrainingSettings(
            steps=300, batch_size=128, learning_rate=3e-3, ema_decay=0.99,
            checkpoint_every=150, evaluate_every=50,
        )
    )  # fmt: skip
    seeds: tuple[Whole, ...] = (0, 1, 2)
    sweeps: tuple[str, ...] | None = None  # names, of `sweeps_of`; null is all
    gaussians: tuple[Count, ...] = (1, 16, 128, 1024)
    kappas: tuple[Positive, ...] = (0.5, 1.0, 2.0, 3.0, 5.0)
    guidances: tuple[NonNegative, ...] = (1.0, 1.5, 2.0, 4.0)
    captions: tuple[Share, ...] = (0.017, 0.05, 0.1, 0.3, 1.0)  # shares of the images with captions
    p2_gammas: tuple[NonNegative, ...] = (0.0, 1.0)  # of the loss' weights
    samplers: tuple[Sampler, ...] = ("ddpm", "ddim", "dpm++", "unipc")
    steps: tuple[Count, ...] = (1, 2, 4, 8, 16, 64)
    main_steps: tuple[Count, ...] = (1, 4, 64)  # those of `steps` at which most arms are sampled
    guided_steps: Count = 16
    held_out: Count = 1000  # validation images to measure on, at most, by their first captions
    spread_captions: Count = 128  # of them, for the samples' spread per caption …
    spread_samples: Count = 8  # … from this many samples of each


@dataclass(frozen=True, config=CLOSED)
class ComparisonSettings:
    """The comparison of the decoders: how the images of each are sampled and measured."""

    seeds: tuple[Whole, ...] = (0, 1, 2)  # of the sampling; models are trained once
    images: Count = 256  # test images decoded, at most
    variants: tuple[Variant, ...] = VARIANTS[:2]  # of the priors that feed the decoders
    grid_rows: Count = 12


@dataclass(frozen=True, config=CLOSED)
class LanguageFreeSettings:
    """A source whose captions no model learns from.

    Priors of the caption subset "0%" learn from the captions of the other sources, and decoders are
    fine-tuned on the images of this one.
    """

    source: str  # the first word of the manifest's `source`
    tuning: Share = 0.25  # of a decoder's steps and of its learning rate, for the fine-tuning


@dataclass(frozen=True, config=CLOSED)
class ZeroShotSettings:
    """Another dataset, from which nothing is learned, that the models are evaluated on.

    Its held-out images count, but those that are in the training data: copies by perceptual hash,
    and images whose nearest training image CLIP takes for the same.
    """

    dataset: str  # as `corgi ingest --name` has named it
    bits: Bits = 8  # of 64 that copies differ in, at most …
    hash_cosine: Cosine = 0.8  # … if their cosine is at least this: hashes also agree by chance
    cosine: Cosine = 0.97  # from which on two images are the same to CLIP


@dataclass(frozen=True, config=CLOSED)
class DriftSettings:
    """From when on new data count as unlike those that the champion has learned from.

    Of many embeddings every difference is certain, so an alert needs a size as well. Random halves
    of one dataset have sizes of about 0 in all three.

    Attributes:
        sample: Embeddings of each side that are compared.
        mean_shift: The distance of the means, in units of an embedding's distance to its own mean:
            Cohen's d over all directions, of which 0.2 is a small and 0.5 a medium effect.
        z: Standard deviations above chance that such a distance must have.
        occupancy: The population stability index of the shares of the Gaussians; credit scoring
            calls more than 0.25 a large shift.
        modality_gap: The change of the distance, 0 to 2, between images' and captions' mean
            directions.
    """

    sample: Count = field(default=1024, compare=False)
    mean_shift: NonNegative = field(default=0.25, compare=False)
    z: NonNegative = field(default=4.0, compare=False)
    occupancy: NonNegative = field(default=0.25, compare=False)
    modality_gap: NonNegative = field(default=0.1, compare=False)


@dataclass(frozen=True, config=CLOSED)
class RaySettings:
    """How Ray's workers share the shards of pixels and embeddings, and what those of trainings get.

    It decides no result.

    Attributes:
        min_images: Of missing shards. Fewer are computed in the process itself, which then loses no
            time to start Ray and load models again in each worker.
        cpus_per_worker: Threads that decode images and, without a GPU, encode. A worker's threads
            share its models in memory.
        gpus_per_worker: Where there are GPUs. A fraction lets several workers share one, so that
            one encodes while another writes its shard.
        training_gpus: The same of each of the workers that train.
        patience: Seconds to wait until workers fit into what is free.
        device_jobs: Assets that may compute at the same time, in runs of their own. More than one
            are for a cluster, where Ray shares the devices among them; local runs have a Ray each.
    """

    min_images: Whole = field(default=50_000, compare=False)
    cpus_per_worker: Count = field(default=1, compare=False)
    gpus_per_worker: Positive = field(default=1.0, compare=False)
    training_gpus: GpuShare = field(default=1.0, compare=False)
    patience: NonNegative = field(default=600.0, compare=False)
    device_jobs: Count = field(default=1, compare=False)


@dataclass(frozen=True, config=CLOSED)
class Preset:
    """All settings that decide results, of one dataset's data, models and evaluations."""

    name: str
    data: DataSettings
    encoders: EncoderSettings
    prior: PriorSettings
    # none for data that are embeddings; in a preset's file a mapping by kind
    decoders: tuple[SerializeAsAny[DecoderSettings], ...]
    gaussians: GaussianSettings = field(default_factory=GaussianSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    study: StudySettings = field(default_factory=StudySettings)
    comparison: ComparisonSettings = field(default_factory=ComparisonSettings)
    language_free: LanguageFreeSettings | None = None
    zero_shot: ZeroShotSettings | None = None
    variants: tuple[Variant, ...] = VARIANTS[:3]  # of the priors that `corgi run` trains
    caption_subsets: tuple[CaptionSubset, ...] = (
        CAPTION_SUBSETS  # of the captions priors learn from
    )
    default_decoder: str | None = None  # its kind; None: the first
    workers: Whole = 1  # of Ray Train; 0 does without Ray, all work in the process itself
    ray: RaySettings = field(default_factory=RaySettings)
    drift: DriftSettings = field(default_factory=DriftSettings)
    # Of encoding, sampling and decoding on a GPU: "auto" is bf16 where the GPU has it, else fp32.
    # On a CPU "bf16" is of CLIP's image towers; all else is fp32.
    inference_precision: InferencePrecision = field(default="auto", compare=False)
    # Captions' tokens: "cached" on disk, or made "online" by the text encoder whenever needed.
    text_features: TextFeatures = "cached"
    # Images' pixels: "stored" as an array, or decoded "online" from their files whenever needed.
    pixels: PixelSource = "stored"
    # Images as squares: the whole of it, padded with white, or the centre, as CLIP's own are.
    framing: Framing = "letterbox"
    seed: Whole = 0

    def __post_init__(self) -> None:
        if self.decoders and (self.encoders.clip == TRAINED) != (
            self.encoders.training is not None
        ):
            raise CorgiError(
                "encoders.training is for encoders.clip: [trained], and for nothing else",
                "set encoders.training to null, or encoders.clip to [trained]",
            )
        fitting = self.encoders.clip in (TRAINED, FITTED)
        if not self.decoders and fitting and self.encoders.training is None:
            raise CorgiError(
                "text towers may have to be fitted, and encoders.training says not how",
                "set encoders.training, or name the encoders of the embeddings in clip",
            )
        if not self.decoders and self.zero_shot is not None:
            raise CorgiError(
                "zero_shot looks for training images among those of another dataset, and this "
                "preset has embeddings only",
                "leave zero_shot unset, or choose a preset with pictures",
            )
        if self.default_decoder is not None:
            self.decoder_of(self.default_decoder)

    @property
    def decoder(self) -> DecoderSettings | None:
        """The decoder that samples are decoded by unless another is asked for."""
        if self.default_decoder is not None:
            return self.decoder_of(self.default_decoder)
        return self.decoders[0] if self.decoders else None

    @property
    def image_size(self) -> int | None:
        """Pixels to a side of the stored images: the largest decoder's; None without decoders."""
        return max((settings.image_size for settings in self.decoders), default=None)

    def decoder_of(self, kind: str) -> DecoderSettings:
        """The settings of a kind of decoder; CorgiError where the preset has none of it."""
        for settings in self.decoders:
            if settings.kind == kind:
                return settings
        kinds = ", ".join(settings.kind for settings in self.decoders) or "none"
        raise CorgiError(
            f"the preset {self.name} has no decoder {kind!r}", f"choose one of its own: {kinds}"
        )

    @property
    def cascade(self) -> CascadeSettings:
        """The settings of the cascade; raises CorgiError if the preset has none."""
        return cast(CascadeSettings, self.decoder_of(CascadeSettings.kind))

    @property
    def near_training(self) -> tuple[float, int, float]:
        """From where on a test image has a near neighbour in training: the evaluation's bounds."""
        each = self.evaluation
        return each.near_cosine, each.near_bits, each.near_hash_cosine

    def digest(self, *sections: str) -> str:
        """A digest of the named sections or properties, by default of all sections.

        `decoders` is without Stable Diffusion: naming a pipeline changes no other decoder.
        """
        names = sections or [each.name for each in fields(self)]
        values = {name: _deciding(getattr(self, name)) for name in names}
        if "decoders" in values:
            others = (d for d in self.decoders if d.kind != StableDiffusionSettings.kind)
            values["decoders"] = [_deciding(each) for each in others]
        return digest_of(values)


def _deciding(value: Any) -> Any:
    """Settings as plain values, without those that decide only how a result is computed."""
    if is_dataclass(value):
        deciding = (field.name for field in fields(value) if field.compare)
        return {name: _deciding(getattr(value, name)) for name in deciding}
    if isinstance(value, tuple):
        return [_deciding(item) for item in value]
    return value


def settings_from(kind: type[S], values: Mapping[str, Any]) -> S:
    """Settings read back from a model folder's JSON, where tuples have become lists."""
    return TypeAdapter(kind).validate_python(values)
