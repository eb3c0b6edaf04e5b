"""The sweeps of the study: each names the arms that it compares and how they are sampled.

An arm of several sweeps is trained once, and each way of sampling is measured once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from corgi_core.config import Preset
from corgi_core.errors import CorgiError
from corgi_core.experiments.prior_ablation.arms import (
    BASELINE,
    BASELINE_RAW,
    SHIFT_ONLY,
    Arm,
    scale_only,
    shifted,
    shifted_text,
)
from corgi_core.experiments.prior_ablation.flow_matching import FLOW_SAMPLERS
from corgi_core.experiments.prior_ablation.methods import DIFFUSION, FLOW, MLP, MODES, SOURCE

if TYPE_CHECKING:
    import pandas as pd

PAPER_KAPPA = 5.0  # of the authors' code
FEW, MUCH = 4, 2.0  # sampling steps and guidance, at most, of what is compared in few steps
CONTRASTS = (0.01, 0.03, 0.1, 0.3)  # weights of a contrastive term
MANY = 128  # modes, at most, whose choice is learned


@dataclass(frozen=True, order=True)
class Sampling:
    """One way to sample from a trained prior."""

    steps: int
    sampler: str = "ddpm"  # the ancestral chain, the paper's
    guidance: float = 1.0
    # the training step of the same prior that guides it; 0 is the dropped caption of guidance
    weak: int = 0


@dataclass(frozen=True)
class Sweep:
    """What one figure and table of the study compare. `arms` are without their seed."""

    name: str
    arms: tuple[Arm, ...]
    samplings: tuple[Sampling, ...] = ()
    spread: bool = False  # measure the samples' spread too, at these samplings
    timesteps: bool = False  # record ẑ_0 at every step of the longest sampling
    against: Arm | None = None  # the others are compared with it, paired by seed


@dataclass(frozen=True)
class Plan:
    """All that the sweeps need of one arm."""

    arm: Arm
    samplings: tuple[Sampling, ...]
    spread: tuple[Sampling, ...]
    timesteps: bool


def sweeps_of(preset: Preset) -> tuple[Sweep, ...]:
    """The sweeps of a preset's study: those that its settings name, or all.

    Raises:
        CorgiError: there is no sweep of such a name.
    """
    sweeps, wanted = _all_sweeps(preset), preset.study.sweeps
    if wanted is None:
        return sweeps
    names = [sweep.name for sweep in sweeps]
    for name in wanted:
        if name not in names:
            raise CorgiError(
                f"the study has no sweep {name!r}",
                f"choose study.sweeps among {', '.join(names)}; null is all of them",
            )
    return tuple(sweep for sweep in sweeps if sweep.name in wanted)


def _all_sweeps(preset: Preset) -> tuple[Sweep, ...]:
    study, kappa = preset.study, preset.gaussians.kappa
    all_steps = tuple(Sampling(steps) for steps in study.steps)
    main = tuple(Sampling(steps) for steps in study.main_steps)
    pair = (Arm(BASELINE), Arm(shifted(kappa)))
    paper, text = Arm(shifted(PAPER_KAPPA)), Arm(shifted_text(kappa))
    three = (*pair, text)
    others = [gamma for gamma in study.p2_gammas if gamma != preset.prior.p2_gamma]
    widths = [Arm(start(k)) for k in study.kappas for start in (shifted, scale_only)]
    return (
        Sweep("steps", (*three, paper), all_steps),  # the paper's Figure 10
        Sweep("timesteps", (*three, paper, Arm(BASELINE_RAW)), timesteps=True),  # Figure 12
        Sweep(  # Figure 13
            "gaussians",
            (
                Arm(BASELINE), *(Arm(shifted(kappa, k)) for k in study.gaussians),
                Arm(shifted(kappa, study.gaussians[-1], learned=True)), text,
            ),
            main, spread=True,
        ),
        Sweep("kappa", (*widths, Arm(BASELINE), Arm(SHIFT_ONLY)), main, spread=True),
        Sweep(
            "shift_and_scale",
            (Arm(BASELINE), Arm(SHIFT_ONLY), Arm(scale_only(kappa)), Arm(shifted(kappa))),
            main, spread=True,
        ),
        Sweep("baseline_scalings", (Arm(BASELINE), Arm(BASELINE_RAW)), all_steps),
        Sweep(
            "guidance", three,
            tuple(Sampling(study.guided_steps, guidance=g) for g in study.guidances),
            spread=True,
        ),
        Sweep(
            "captions",
            tuple(replace(arm, captions=share) for arm in three for share in study.captions),
            tuple(Sampling(steps) for steps in study.main_steps[1:]),
        ),
        Sweep(
            "samplers", pair,
            tuple(Sampling(steps, s) for s in study.samplers for steps in study.steps),
        ),
        Sweep(
            "loss_weights",
            (*pair, *(arm.with_setting("p2_gamma", gamma) for gamma in others for arm in pair)),
            main, spread=True,
        ),
        Sweep("wall_time", three),
        *_methods(preset),
        *_beyond(preset),
    )  # fmt: skip


def _methods(preset: Preset) -> tuple[Sweep, ...]:
    """Other networks, losses and guidance than the prior's, in few steps."""
    study = preset.study
    few = [steps for steps in study.steps if steps <= FEW]
    plain = tuple(Sampling(steps) for steps in few)
    guided = tuple(
        Sampling(few[-1], guidance=scale) for scale in study.guidances if 1 < scale <= MUCH
    )
    early = early_steps(preset)
    starts = (BASELINE, shifted_text(preset.gaussians.kappa))
    diffusion = [Arm(start, snapshots=early) for start in starts]
    ways = (*plain, *guided)
    euler, heun = ([replace(way, sampler=solver) for way in ways] for solver in FLOW_SAMPLERS)
    by_itself = [replace(way, weak=step) for step in early for way in guided]
    return (
        Sweep("network", (*diffusion, *(Arm(s, method=MLP) for s in starts)), ways, spread=True),
        Sweep(
            "flow",
            tuple(Arm(s, method=FLOW) for s in starts),
            (*euler, heun[len(plain) - 1]),
            spread=True,
        ),
        Sweep("autoguidance", tuple(diffusion), (*ways, *by_itself), spread=True),
    )


def early_steps(preset: Preset) -> tuple[int, ...]:
    """The training steps of the priors that guide their later selves."""
    sixth = preset.study.training.steps // 6
    return sixth, 2 * sixth


def _beyond(preset: Preset) -> tuple[Sweep, ...]:
    """What the paper does not have, beside a caption's own Gaussian, in few steps."""
    kappa = preset.gaussians.kappa
    text, one = Arm(shifted_text(kappa)), Arm(shifted(kappa))
    few = (Sampling(2), Sampling(4), Sampling(4, guidance=1.5))
    weights = (text.with_setting("contrast", weight) for weight in CONTRASTS)
    sizes = (
        text.with_setting("layers", preset.prior.layers + 1),
        text.with_setting("width", 2 * preset.prior.width),
    )
    many = [
        Arm(shifted(kappa, k), method=method)
        for k in preset.study.gaussians if 1 < k <= MANY for method in (DIFFUSION, MODES)
    ]  # fmt: skip
    learned = replace(one, method=SOURCE)
    return (
        Sweep("contrast", (text, *weights), few, spread=True, against=text),
        Sweep("sizes", (text, *sizes), few, spread=True, against=text),
        Sweep("modes", (text, one, *many), few, spread=True, against=text),
        Sweep("source", (text, one, learned), few, spread=True, against=text),
    )


def plans_of(sweeps: Iterable[Sweep], seed: int, max_steps: int) -> list[Plan]:
    """One plan an arm, in the order of the sweeps; `max_steps` is the most sampling steps."""
    by_arm: dict[Arm, list[Sweep]] = {}
    for sweep in sweeps:
        for arm in sweep.arms:
            by_arm.setdefault(replace(arm, seed=seed), []).append(sweep)
    return [_merged(arm, sweeps, max_steps) for arm, sweeps in by_arm.items()]


def rows_of(samples: pd.DataFrame, arm: Arm, s: Sampling) -> pd.DataFrame:
    """The samples' rows of an arm, of all seeds, sampled so."""
    return samples[
        (samples["start"] == arm.family) & (samples["captions"] == arm.captions)
        & (samples["sampler"] == s.sampler) & (samples["steps"] == s.steps)
        & (samples["guidance"] == s.guidance) & (samples["weak"] == s.weak)
    ]  # fmt: skip


def _merged(arm: Arm, sweeps: list[Sweep], max_steps: int) -> Plan:
    timesteps = any(sweep.timesteps for sweep in sweeps)
    samplings = {sampling for sweep in sweeps for sampling in sweep.samplings}
    if timesteps:
        samplings.add(Sampling(max_steps))
    spread = {s for sweep in sweeps if sweep.spread for s in sweep.samplings}
    return Plan(arm, tuple(sorted(samplings)), tuple(sorted(spread)), timesteps)
