"""An arm of the study: one training, named by the Gaussians it starts from, its captions, its seed.

The bank is a change of variables, so all that the paper's prior and the baseline differ in is
written in one `Start`: whether the mean is shifted, and how wide the Gaussian is.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

UNIT, FITTED, RAW = "unit", "fitted", "raw"  # scales of a start


@dataclass(frozen=True)
class Start:
    """The Gaussians that a diffusion starts from.

    `shift`: at the clusters' means μ, or at 0. `scale` is the deviation: "unit" 1; "fitted" κσ,
    with σ the clusters' own; "raw" √d_b, which is N(0, I) for embeddings of norm 1 (ours have norm
    √d_b in every block of width d_b, as DALL-E 2 scales them).
    """

    shift: bool = True
    scale: str = FITTED
    kappa: float = 1.0  # of the fitted scale
    gaussians: int = 1  # k, as asked for; small data bear fewer
    learned: bool = False  # go on from the fitted Gaussians by equation (5)

    def __post_init__(self) -> None:
        if self.scale not in (UNIT, FITTED, RAW):
            raise ValueError(f"there is no scale {self.scale!r}")
        if not self.shift and (self.gaussians != 1 or self.learned):
            raise ValueError("several Gaussians at one place are one Gaussian")

    @property
    def name(self) -> str:
        """For folders and runs: "baseline", "scale-only-kappa2", "shifted-k16-kappa1", …"""
        kappa = f"kappa{self.kappa:g}"
        if self.scale == FITTED:
            learned = "-learned" if self.learned else ""
            shifted = f"shifted-k{self.gaussians}{learned}-{kappa}"
            return shifted if self.shift else f"scale-only-{kappa}"
        place = "shift-only" if self.shift else "baseline"
        return place if self.scale == UNIT else f"{place}-raw"

    @property
    def label(self) -> str:
        """For figures and tables, in the paper's letters."""
        if self.scale == FITTED:
            learned = " learned" if self.learned else ""
            place = f"shifted k = {self.gaussians}{learned}" if self.shift else "scale only"
            return f"{place}, κ = {self.kappa:g}"
        place = "shift only, N(μ, I)" if self.shift else "baseline, N(0, I)"
        return place if self.scale == UNIT else f"{place.partition(',')[0]}, norm-1 embeddings"


BASELINE = Start(shift=False, scale=UNIT)
BASELINE_RAW = Start(shift=False, scale=RAW)
SHIFT_ONLY = Start(scale=UNIT)


def scale_only(kappa: float) -> Start:
    """N(0, (κσ)²): as wide as the shifted start, but at 0."""
    return Start(shift=False, kappa=kappa)


def shifted(kappa: float, gaussians: int = 1, learned: bool = False) -> Start:
    """N(μᵢ, (κσᵢ)²), the paper's."""
    return Start(kappa=kappa, gaussians=gaussians, learned=learned)


@dataclass(frozen=True)
class Arm:
    """One training. `captions` is the share of the training images that keep theirs, in (0, 1].

    `p2_gamma` is γ of the loss' weights (1 + SNR)^−γ; None is the preset's.
    """

    start: Start
    captions: float = 1.0
    seed: int = 0
    p2_gamma: float | None = None

    @property
    def family(self) -> str:
        """The arms that differ in captions and seed alone."""
        weights = "" if self.p2_gamma is None else f"-gamma{self.p2_gamma:g}"
        return self.start.name + weights

    @property
    def label(self) -> str:
        """The family's, for figures and tables."""
        weights = "" if self.p2_gamma is None else f", γ = {self.p2_gamma:g}"
        return self.start.label + weights

    @property
    def name(self) -> str:
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
            "p2_gamma": self.p2_gamma,
            "seed": self.seed,
        }
