"""Every setting of Corgi in one aligned table: the presets, from a laptop to a cluster.

A preset is data. Assets read their part of it, and its digest is part of their code version, so
changing a number here marks exactly what depends on it as stale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar, get_type_hints

from corgi_core.errors import CorgiError
from corgi_core.files import digest_of

S = TypeVar("S")

BASELINE, LEARNED = "baseline", "-learned"
VARIANTS = (
    BASELINE, "shifted-k1", "shifted-k16", "shifted-k128", "shifted-k1024",
    f"shifted-k1024{LEARNED}",
)  # fmt: skip
CAPTION_SUBSETS = ("1.7%", "10%", "100%")


def clusters_of(variant: str) -> int | None:
    """Number of Gaussians of a variant's bank; None for the baseline, which starts from N(0, I)."""
    if variant == BASELINE:
        return None
    return int(variant.removeprefix("shifted-k").removesuffix(LEARNED))


def is_learned(variant: str) -> bool:
    """Whether the variant's bank is learned by equation (5), after it was fitted."""
    return variant.endswith(LEARNED)


def fraction_of(caption_subset: str) -> float:
    """The share of training images that keep their captions, in (0, 1]: "1.7%" is 0.017."""
    return float(caption_subset.removesuffix("%")) / 100


@dataclass(frozen=True)
class TrainingSettings:
    """One optimiser run, for every model alike (AdamW, warm-up, then cosine decay)."""

    steps: int
    batch_size: int  # global, over all workers
    learning_rate: float
    warmup_steps: int = 50
    weight_decay: float = 0.06
    betas: tuple[float, float] = (0.9, 0.96)
    epsilon: float = 1e-6
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    precision: str = (
        "auto"  # "bf16" (autocast) where the hardware has matrix units for it, or "fp32"
    )
    # How it is computed, like the number of workers: no part of a run's identity.
    accumulation: int = field(default=1, compare=False)  # pieces of a worker's batch, for memory
    compile: bool = field(default=False, compare=False)  # torch.compile: slow first, then faster
    checkpoint_every: int = 200
    evaluate_every: int = 200
    seed: int = 0


@dataclass(frozen=True)
class DataSettings:
    source: str = "emoji"  # the reader that `raw_images` uses
    limit: int | None = None  # keep this many images, chosen by key
    shard_size: int = 1000  # images in one shard
    test_fraction: float = 0.1
    max_pixels: int = 50_000_000  # decoding anything larger is refused (decompression bombs)
    max_side: int = 1024  # larger images are scaled down by the gate


@dataclass(frozen=True)
class EncoderSettings:
    """`clip` names open_clip encoders ("ViT-B-16/openai", "hf-hub:…", a local folder), or is
    ("trained",): then the asset `clip_encoder` trains one on the training split."""

    clip: tuple[str, ...]
    text: str  # "minilm" (in the installed package), a transformers id or a local folder
    text_tokens: int  # at most this many tokens a caption
    # of the trained encoder, whose image tower is CLIP's ModifiedResNet:
    image_size: int  # pixels, a multiple of 32
    width: int  # d
    tower_layers: tuple[int, int, int, int]  # bottlenecks at each resolution
    tower_channels: int  # at the highest resolution; the last has 32 times as many
    training: TrainingSettings | None


@dataclass(frozen=True)
class GaussianSettings:
    """The banks of Gaussians that the shifted priors start from."""

    kappa: float = 1.0  # scale of the fitted deviations
    choice: str = "means"  # a caption's Gaussian is the nearest mean, or by "expectation" over …
    choice_draws: int = 64  # … so many draws from each Gaussian
    points_per_gaussian: int = 32  # with fewer embeddings than k times this, k is scaled down
    xi: float = 0.1  # ξ of equation (5): how strongly a learned bank's means are kept apart
    learning: TrainingSettings = TrainingSettings(  # of a learned bank
        steps=300, batch_size=256, learning_rate=1e-2, weight_decay=0.0, ema_decay=0.99,
        epsilon=1e-12, precision="fp32",  # a mean that few captions choose has tiny gradients
    )  # fmt: skip


@dataclass(frozen=True)
class PriorSettings:
    width: int
    layers: int
    heads: int
    draws: int  # independent (t, noise) draws that share one text prefix
    text_dropout: float  # probability of dropping the text, for classifier-free guidance
    p2_gamma: float  # of the P2 weights, equation (4)
    guidance: float
    sampling_steps: int
    training: TrainingSettings
    loss: str = "simplified"  # equation (4), or "kl": the divergence that it simplifies
    sampler: str = "ddpm"
    checkpoint_activations: bool = False  # compute activations again in the backward pass


@dataclass(frozen=True)
class DecoderSettings:
    image_size: int  # pixels
    components: int  # principal components of the training pictures; the diffusion runs over these
    width: int  # of the residual blocks
    vectors: int  # the embedding is projected to this many vectors, one for each residual block
    vector_width: int
    blurred: float  # share of the training embeddings that are blurred, as a prior's are …
    least_cosine: float  # … down to this cosine to the true one
    noise_shift: float  # of the cosine schedule's log SNR; negative is more noise
    embedding_dropout: float
    guidance: float
    sampling_steps: int
    training: TrainingSettings


@dataclass(frozen=True)
class EvaluationSettings:
    steps: tuple[int, ...] = (1, 2, 4, 8, 16, 64)  # of the prior's sampler
    images: int = 256  # held-out images decoded for the Fréchet distance and CLIP similarity
    grid_rows: int = 12
    inception_weights: str | None = None  # a TorchScript Inception; without it, the preset's CLIP
    seed: int = 0


@dataclass(frozen=True)
class StudySettings:
    """The study of the prior: what is varied, one thing at a time, and how it is measured."""

    training: TrainingSettings = TrainingSettings(  # of every arm; the seed is the arm's
        steps=300, batch_size=128, learning_rate=3e-3, ema_decay=0.99,
        checkpoint_every=150, evaluate_every=50,
    )  # fmt: skip
    seeds: tuple[int, ...] = (0, 1, 2)
    gaussians: tuple[int, ...] = (1, 16, 128, 1024)
    kappas: tuple[float, ...] = (0.5, 1.0, 2.0, 3.0, 5.0)
    guidances: tuple[float, ...] = (1.0, 1.5, 2.0, 4.0)
    captions: tuple[float, ...] = (0.017, 0.05, 0.1, 0.3, 1.0)  # shares that are kept
    p2_gammas: tuple[float, ...] = (0.0, 1.0)  # of the loss' weights
    samplers: tuple[str, ...] = ("ddpm", "ddim", "dpm++", "unipc")
    steps: tuple[int, ...] = (1, 2, 4, 8, 16, 64)
    main_steps: tuple[int, ...] = (1, 4, 64)  # those of `steps` at which most arms are sampled
    guided_steps: int = 16
    held_out: int = 1000  # held-out images to measure on, at most, by their first captions
    spread_captions: int = 128  # of them, for the samples' spread per caption …
    spread_samples: int = 8  # … from so many samples of each


@dataclass(frozen=True)
class Preset:
    name: str
    data: DataSettings
    encoders: EncoderSettings
    prior: PriorSettings
    decoder: DecoderSettings | None  # None for data without pictures, which has embeddings only
    gaussians: GaussianSettings = field(default_factory=GaussianSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    study: StudySettings = field(default_factory=StudySettings)
    variants: tuple[str, ...] = VARIANTS[:3]  # of the priors that `corgi demo` trains
    workers: int = 1  # of Ray Train
    seed: int = 0

    def digest(self, *sections: str) -> str:
        """A digest of the named sections (all by default), for code versions and run names."""
        values = _deciding(self)
        return digest_of({section: values[section] for section in sections or values})


def _deciding(value: Any) -> Any:
    """Settings as plain values, without those that decide only how a result is computed."""
    if is_dataclass(value):
        kept = (field.name for field in fields(value) if field.compare)
        return {name: _deciding(getattr(value, name)) for name in kept}
    return value


_EMOJI_DECODER = DecoderSettings(
    image_size=64, components=1024, width=1024, vectors=8, vector_width=256,
    blurred=0.5, least_cosine=0.7, noise_shift=-3.0, embedding_dropout=0.1, guidance=1.0,
    sampling_steps=12,
    training=TrainingSettings(
        steps=1000, batch_size=512, learning_rate=1.5e-3, weight_decay=0.01, ema_decay=0.995,
        evaluate_every=250, checkpoint_every=250,
    ),
)  # fmt: skip

_EMOJI = Preset(
    name="emoji",
    data=DataSettings(),
    encoders=EncoderSettings(
        clip=("trained",), text="minilm", text_tokens=24,
        image_size=64, width=256, tower_layers=(1, 1, 1, 1), tower_channels=24,
        training=TrainingSettings(
            steps=340, batch_size=256, learning_rate=2e-3, ema_decay=0.99,
            checkpoint_every=85, evaluate_every=170,
        ),
    ),
    prior=PriorSettings(
        width=256, layers=1, heads=4, draws=4, text_dropout=0.1, p2_gamma=0.0,
        guidance=1.0, sampling_steps=4,
        training=TrainingSettings(
            steps=1000, batch_size=128, learning_rate=3e-3, ema_decay=0.99,
            checkpoint_every=250, evaluate_every=250,
        ),
    ),
    decoder=_EMOJI_DECODER,
)  # fmt: skip

# The same graph in minutes, for the tests: fewer and smaller of everything.
_EMOJI_SMALL = Preset(
    name="emoji-small",
    data=DataSettings(limit=600, shard_size=100, test_fraction=0.15),
    encoders=replace(
        _EMOJI.encoders, image_size=32, width=64, tower_channels=8,
        training=TrainingSettings(
            steps=60, batch_size=64, learning_rate=2e-3, warmup_steps=10, ema_decay=0.9,
        ),
    ),
    prior=replace(
        _EMOJI.prior, width=64, layers=2,
        training=TrainingSettings(
            steps=120, batch_size=32, learning_rate=2e-3, warmup_steps=10, ema_decay=0.95,
            checkpoint_every=30, evaluate_every=60,
        ),
    ),
    decoder=replace(
        _EMOJI_DECODER, image_size=32, components=256, width=256, vector_width=64,
        sampling_steps=8,
        training=TrainingSettings(
            steps=200, batch_size=128, learning_rate=2e-3, warmup_steps=10, ema_decay=0.95,
        ),
    ),
    evaluation=EvaluationSettings(images=24, grid_rows=6),
    study=StudySettings(
        training=TrainingSettings(
            steps=40, batch_size=32, learning_rate=2e-3, warmup_steps=10, ema_decay=0.9,
            checkpoint_every=20, evaluate_every=20,
        ),
        seeds=(0, 1), gaussians=(1, 16), kappas=(1.0, 3.0), guidances=(1.0, 2.0),
        captions=(0.1, 1.0), samplers=("ddpm", "dpm++"), steps=(1, 4, 8), main_steps=(1, 8),
        guided_steps=4, spread_captions=30, spread_samples=4,
    ),
)  # fmt: skip

# Image embeddings that somebody else computed, with captions: the priors alone.
_EMBEDDINGS = Preset(
    name="embeddings",
    data=DataSettings(source="embeddings", shard_size=2000),
    encoders=replace(  # text towers are fitted to the embeddings
        _EMOJI.encoders, text_tokens=32,
        training=TrainingSettings(
            steps=1500, batch_size=512, learning_rate=1e-3, weight_decay=0.1, ema_decay=0.99,
            checkpoint_every=500, evaluate_every=250,
        ),
    ),
    prior=replace(
        _EMOJI.prior, width=512, heads=8,  # no narrower than one CLIP's embeddings
        training=TrainingSettings(
            steps=600, batch_size=256, learning_rate=2e-3, ema_decay=0.99,
            checkpoint_every=200, evaluate_every=200,
        ),
    ),
    decoder=None,
    study=StudySettings(
        training=TrainingSettings(
            steps=300, batch_size=64, learning_rate=2e-3, ema_decay=0.99,
            checkpoint_every=150, evaluate_every=100,
        ),
        spread_captions=64, spread_samples=4,
    ),
    variants=VARIANTS,
)  # fmt: skip

PRESETS: dict[str, Preset] = {preset.name: preset for preset in (_EMOJI, _EMOJI_SMALL, _EMBEDDINGS)}


def settings_from(kind: type[S], values: Mapping[str, Any]) -> S:
    """Settings read back from a model folder's JSON, where tuples have become lists."""
    hints = get_type_hints(kind)
    fields: dict[str, Any] = {}
    for name, value in values.items():
        if is_dataclass(hints[name]):
            value = settings_from(hints[name], value)
        fields[name] = tuple(value) if isinstance(value, list) else value
    return kind(**fields)


def preset_named(name: str) -> Preset:
    """The preset of that name; a CorgiError that lists the known ones if there is none."""
    if name not in PRESETS:
        raise CorgiError(f"there is no preset {name!r}", f"choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
