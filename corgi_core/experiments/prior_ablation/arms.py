"""An arm of the study: one training, named by the Gaussians it starts from, its captions, its seed.

The bank is a change of variables, so a `Start` says all in which the paper's prior differs from the
baseline: whether the mean is shifted, how wide the Gaussian is, and whether every caption has one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from corgi_core.config import GaussianSettings
from corgi_core.experiments.prior_ablation.methods import DIFFUSION, METHODS
from corgi_core.gaussians.bank import GaussianBank
from corgi_core.gaussians.fit import fit_bank
from corgi_core.gaussians.stream import EmbeddingStream
from corgi_core.mapping import Map, map_here

UNIT, FITTED, RAW = "unit", "fitted", "raw"  # scales of a start
CLUSTERS, LEARNED, CAPTIONS = "clusters", "learned", "captions"  # what its Gaussians are
SYMBOLS = {"p2_gamma": "γ"}
"""Of settings in figures and tables, where it is not their name."""


@dataclass(frozen=True)
class Start:
    """The Gaussians that a diffusion starts from.

    `shift`: at the clusters' means μ, or at 0. `scale` is the standard deviation: "unit" 1;
    "fitted" κσ, with σ the clusters' own; "raw" √d_b, which is N(0, I) for embeddings of norm 1
    (ours have norm √d_b for every encoder of width d_b, as DALL-E 2 scales them). `kind` says what
    the Gaussians are: fitted to "clusters" of embeddings; those, "learned" by equation (5); or one
    of each of the "captions", N(μ(y), κ² Σ), which is the shift at its limit and not the paper's.
    """

    shift: bool = True
    scale: str = FITTED
    kappa: float = 1.0  # of the fitted scale
    gaussians: int = 1  # k as requested; few embeddings get fewer
    kind: str = CLUSTERS

    def __post_init__(self) -> None:
        if self.scale not in (UNIT, FITTED, RAW):
            raise ValueError(f"there is no scale {self.scale!r}")
        if self.kind not in (CLUSTERS, LEARNED, CAPTIONS):
            raise ValueError(f"there are no Gaussians of the kind {self.kind!r}")
        if not self.shift and (self.gaussians != 1 or self.kind != CLUSTERS):
            raise ValueError("several Gaussians of one mean are one Gaussian")
        if self.kind == CAPTIONS and (self.gaussians != 1 or self.scale != FITTED):
            raise ValueError("a caption has one Gaussian, of the fitted scale")

    @property
    def name(self) -> str:
        """For folders and runs, such as "baseline", "scale-only-kappa2", "shifted-k16-kappa1"."""
        kappa = f"kappa{self.kappa:g}"
        if self.kind == CAPTIONS:
            return f"shifted-text-{kappa}"
        if self.scale == FITTED:
            learned = "-learned" if self.kind == LEARNED else ""
            shifted = f"shifted-k{self.gaussians}{learned}-{kappa}"
            return shifted if self.shift else f"scale-only-{kappa}"
        name = "shift-only" if self.shift else "baseline"
        return name if self.scale == UNIT else f"{name}-raw"

    @property
    def label(self) -> str:
        """For figures and tables, in the paper's letters."""
        if self.kind == CAPTIONS:
            return f"shifted for every caption, κ = {self.kappa:g}"
        if self.scale == FITTED:
            learned = " learned" if self.kind == LEARNED else ""
            label = f"shifted k = {self.gaussians}{learned}" if self.shift else "scale only"
            return f"{label}, κ = {self.kappa:g}"
        label = "shift only, N(μ, I)" if self.shift else "baseline, N(0, I)"
        return label if self.scale == UNIT else f"{label.partition(',')[0]}, norm-1 embeddings"


BASELINE = Start(shift=False, scale=UNIT)
BASELINE_RAW = Start(shift=False, scale=RAW)
SHIFT_ONLY = Start(scale=UNIT)


def scale_only(kappa: float) -> Start:
    """N(0, (κσ)²): as wide as the shifted start, but at 0."""
    return Start(shift=False, kappa=kappa)


def shifted(kappa: float, gaussians: int = 1, learned: bool = False) -> Start:
    """N(μᵢ, (κσᵢ)²), the paper's."""
    return Start(kappa=kappa, gaussians=gaussians, kind=LEARNED if learned else CLUSTERS)


def shifted_text(kappa: float) -> Start:
    """N(μ(y), κ² Σ) for caption y."""
    return Start(kappa=kappa, kind=CAPTIONS)


@dataclass(frozen=True)
class Arm:
    """One training. `captions` is the share of the training images that keep theirs, in (0, 1].

    `settings` are those of `PriorSettings` that differ from the preset's: pairs of name and value.
    `method` is one of `METHODS`. `snapshots` are training steps whose averaged weights stay, which
    autoguidance needs; the training is the same.
    """

    start: Start
    captions: float = 1.0
    seed: int = 0
    settings: tuple[tuple[str, float], ...] = ()
    method: str = DIFFUSION
    snapshots: tuple[int, ...] = ()

    def with_setting(self, name: str, value: float) -> Self:
        """The same arm with one setting of the prior that differs from the preset's."""
        return replace(self, settings=(*self.settings, (name, value)))

    @property
    def family(self) -> str:
        """The arms that differ in captions and seed alone."""
        parts = [f"{name.replace('_', '-')}{value:g}" for name, value in self.settings]
        method = [] if self.method == DIFFUSION else [self.method]
        snapshots = [f"snapshots{'-'.join(map(str, self.snapshots))}"] if self.snapshots else []
        return "-".join([self.start.name, *parts, *method, *snapshots])

    @property
    def label(self) -> str:
        """The family's, for figures and tables."""
        parts = [f"{SYMBOLS.get(name, name)} = {value:g}" for name, value in self.settings]
        method = [] if self.method == DIFFUSION else [METHODS[self.method].label]
        return ", ".join([self.start.label, *parts, *method])

    @property
    def name(self) -> str:
        """The arm's own, for folders and runs."""
        share = "" if self.captions == 1 else f"-captions{100 * self.captions:g}pc"
        return f"{self.family}{share}-seed{self.seed}"

    @property
    def about(self) -> dict[str, Any]:
        """Flat and readable: the columns of every measurement of this arm, but for the seed's."""
        return {
            "arm": self.name,
            "start": self.family,
            "label": self.label,
            **asdict(self.start),
            "captions": self.captions,
            "settings": " ".join(f"{name}={value:g}" for name, value in self.settings) or None,
            "method": self.method,
            "seed": self.seed,
        }


def fitted_banks(
    embeddings: EmbeddingStream,
    arms: Iterable[Arm],
    encoder_dims: Sequence[int],
    settings: GaussianSettings,
    seed: int,
    mapped: Map = map_here,
) -> dict[int, GaussianBank]:
    """The banks that the arms start from, each fitted once; learning comes afterwards.

    Args:
        embeddings: Of the training images.
        arms: Their starts' numbers of Gaussians are fitted, and one Gaussian in any case.
        encoder_dims: The widths of the CLIP encoders, which sum to d.
        settings: Of the fits; κ is 1.
        seed: Of the fits.
        mapped: Where the passes over the embeddings are computed.

    Returns:
        A bank for each number of Gaussians that is asked for. Its k is lower where the embeddings
        are too few.
    """
    numbers = {1, *(arm.start.gaussians for arm in arms)}
    settings = replace(settings, kappa=1.0)
    return {
        number: fit_bank(embeddings, number, encoder_dims, settings, seed, mapped)[0]
        for number in sorted(numbers)
    }


def bank_of(start: Start, fitted: Mapping[int, GaussianBank]) -> GaussianBank:
    """The start's bank, of those that `fitted_banks` fitted; without captions, so not theirs."""
    if not start.shift and start.scale != FITTED:
        return GaussianBank.standard(fitted[1].encoder_dims, scaled=start.scale != RAW)
    bank = fitted[start.gaussians]
    if start.scale == UNIT:
        return bank.shift_only()
    scaled = bank.with_kappa(start.kappa)
    return scaled if start.shift else scaled.scale_only()
