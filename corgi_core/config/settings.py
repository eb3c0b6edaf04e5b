"""The settings of every part, one table each. What a preset holds, and its digest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar, cast, get_args, get_type_hints

from corgi_core.config.decoders import DecoderSettings
from corgi_core.config.training import TrainingSettings
from corgi_core.config.variants import VARIANTS
from corgi_core.errors import CorgiError
from corgi_core.io.files import digest_of

S = TypeVar("S")


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
    choice_samples: int = 64  # … so many samples of each Gaussian
    points_per_gaussian: int = 32  # with fewer embeddings than k times this, k is scaled down
    xi: float = 0.1  # ξ of equation (5): how strongly a learned bank's means are kept apart
    learning: TrainingSettings = field(  # of a learned bank
        default_factory=lambda: TrainingSettings(
            steps=300, batch_size=256, learning_rate=1e-2, weight_decay=0.0, ema_decay=0.99,
            epsilon=1e-12, precision="fp32",  # a mean that few captions choose has tiny gradients
        )
    )  # fmt: skip


@dataclass(frozen=True)
class PriorSettings:
    width: int
    layers: int
    heads: int
    noise_samples: int  # independent samples of (t, noise) a caption, which share one text prefix
    cond_dropout: float  # probability of dropping the text, for classifier-free guidance
    p2_gamma: float  # of the P2 weights, equation (4)
    guidance: float
    num_steps: int
    training: TrainingSettings
    loss: str = "simplified"  # equation (4), or "kl": the divergence that it simplifies
    sampler: str = "ddpm"
    checkpoint_activations: bool = False  # compute activations again in the backward pass


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

    training: TrainingSettings = field(  # of every arm; the seed is the arm's
        default_factory=lambda: TrainingSettings(
            steps=300, batch_size=128, learning_rate=3e-3, ema_decay=0.99,
            checkpoint_every=150, evaluate_every=50,
        )
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
class ComparisonSettings:
    """The comparison of the decoders: how the pictures of each are drawn and judged."""

    seeds: tuple[int, ...] = (0, 1, 2)  # of the sampling; models are trained once
    images: int = 256  # held-out images drawn, at most
    variants: tuple[str, ...] = VARIANTS[:2]  # of the priors that feed the decoders
    grid_rows: int = 12


@dataclass(frozen=True)
class LanguageFreeSettings:
    """Images that are drawn without any of their captions: priors of the caption subset "0%" see
    the captions of the other sources, and decoders are fine-tuned on the images of this one."""

    source: str  # the first word of the manifest's `source`
    tuning: float = 0.25  # share of a decoder's steps and of its learning rate, for the fine-tuning

    def tuned(self, training: TrainingSettings) -> TrainingSettings:
        """The settings of the fine-tuning after a training with those given."""
        steps, rate = round(self.tuning * training.steps), self.tuning * training.learning_rate
        return replace(training, steps=steps, learning_rate=rate)


@dataclass(frozen=True)
class Preset:
    name: str
    data: DataSettings
    encoders: EncoderSettings
    prior: PriorSettings
    # The first one draws unless another is asked for; none for data that are embeddings only.
    decoders: tuple[DecoderSettings, ...]
    gaussians: GaussianSettings = field(default_factory=GaussianSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    study: StudySettings = field(default_factory=StudySettings)
    comparison: ComparisonSettings = field(default_factory=ComparisonSettings)
    language_free: LanguageFreeSettings | None = None
    variants: tuple[str, ...] = VARIANTS[:3]  # of the priors that `corgi run` trains
    workers: int = 1  # of Ray Train
    seed: int = 0

    @property
    def decoder(self) -> DecoderSettings | None:
        """The decoder that draws unless another is asked for."""
        return self.decoders[0] if self.decoders else None

    def without_captions_of(self, source: str | None) -> Preset:
        """This preset, with that source's images, or nobody's, drawn without their captions."""
        if source is None:
            return replace(self, language_free=None)
        return replace(self, language_free=LanguageFreeSettings(source))

    def with_clip(self, names: tuple[str, ...]) -> Preset:
        """This preset with other CLIP encoders, as `ClipEnsemble.load` knows them; none trained.

        CorgiError where embeddings come precomputed, which have theirs.
        """
        if not self.decoders:
            raise CorgiError(
                f"the preset {self.name} has the CLIP encoders that its embeddings came from",
                "leave CORGI_CLIP unset",
            )
        return replace(self, encoders=replace(self.encoders, clip=names, training=None))

    def decoder_of(self, kind: str) -> DecoderSettings:
        """The settings of a kind of decoder; CorgiError where the preset has none of it."""
        for settings in self.decoders:
            if settings.kind == kind:
                return settings
        kinds = ", ".join(settings.kind for settings in self.decoders) or "none"
        raise CorgiError(
            f"the preset {self.name} has no decoder {kind!r}", f"choose one of its own: {kinds}"
        )

    def digest(self, *sections: str) -> str:
        """A digest of the named sections (all by default), for code versions and run names."""
        values = _deciding(self)
        return digest_of({section: values[section] for section in sections or values})


def _deciding(value: Any) -> Any:
    """Settings as plain values, without those that decide only how a result is computed."""
    if is_dataclass(value):
        kept = (field.name for field in fields(value) if field.compare)
        return {name: _deciding(getattr(value, name)) for name in kept}
    if isinstance(value, tuple):
        return [_deciding(item) for item in value]
    return value


def settings_from(kind: type[S], values: Mapping[str, Any]) -> S:
    """Settings read back from a model folder's JSON, where tuples have become lists."""
    hints = get_type_hints(kind)
    return kind(**{name: _as_declared(hints[name], value) for name, value in values.items()})


def _as_declared(hint: Any, value: Any) -> Any:
    if is_dataclass(hint):
        return settings_from(cast(type[Any], hint), value)
    if isinstance(value, list | tuple):
        item = (*get_args(hint), Any)[0]
        return tuple(_as_declared(item, each) for each in value)
    return value
