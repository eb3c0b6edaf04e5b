"""What the study asks: each question names the arms it needs and how they are sampled from.

An arm that several questions need is trained once, and each way of sampling is measured once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from corgi_core.config import Preset
from corgi_core.experiments.prior_ablation.arms import (
    BASELINE,
    BASELINE_RAW,
    SHIFT_ONLY,
    Arm,
    scale_only,
    shifted,
)

PAPER_KAPPA = 5.0  # of the authors' code


@dataclass(frozen=True, order=True)
class Sampling:
    """One way to draw from a trained prior."""

    steps: int
    sampler: str = "ddpm"  # the ancestral chain, the paper's
    guidance: float = 1.0


@dataclass(frozen=True)
class Question:
    """One figure and table of the study. `arms` are without their seed."""

    name: str
    arms: tuple[Arm, ...]
    samplings: tuple[Sampling, ...] = ()
    spread: bool = False  # measure the samples' spread too, at these samplings
    timesteps: bool = False  # follow ẑ_0 along the longest sampling


@dataclass(frozen=True)
class Plan:
    """All that is wanted of one arm, whoever asked for it."""

    arm: Arm
    samplings: tuple[Sampling, ...]
    spread: tuple[Sampling, ...]
    timesteps: bool


def questions_of(preset: Preset) -> tuple[Question, ...]:
    """The questions of a preset's study."""
    study, kappa = preset.study, preset.gaussians.kappa
    all_steps = tuple(Sampling(steps) for steps in study.steps)
    main = tuple(Sampling(steps) for steps in study.main_steps)
    pair = (Arm(BASELINE), Arm(shifted(kappa)))
    paper = Arm(shifted(PAPER_KAPPA))
    others = [gamma for gamma in study.p2_gammas if gamma != preset.prior.p2_gamma]
    widths = [Arm(start(k)) for k in study.kappas for start in (shifted, scale_only)]
    return (
        Question("steps", (*pair, paper), all_steps),  # the paper's Figure 10
        Question("timesteps", (*pair, paper, Arm(BASELINE_RAW)), timesteps=True),  # Figure 12
        Question(  # Figure 13
            "gaussians",
            (
                Arm(BASELINE), *(Arm(shifted(kappa, k)) for k in study.gaussians),
                Arm(shifted(kappa, study.gaussians[-1], learned=True)),
            ),
            main, spread=True,
        ),
        Question("kappa", (*widths, Arm(BASELINE), Arm(SHIFT_ONLY)), main, spread=True),
        Question(
            "shift_and_scale",
            (Arm(BASELINE), Arm(SHIFT_ONLY), Arm(scale_only(kappa)), Arm(shifted(kappa))),
            main, spread=True,
        ),
        Question("baseline_scalings", (Arm(BASELINE), Arm(BASELINE_RAW)), all_steps),
        Question(
            "guidance", pair,
            tuple(Sampling(study.guided_steps, guidance=g) for g in study.guidances),
            spread=True,
        ),
        Question(
            "captions",
            tuple(replace(arm, captions=share) for arm in pair for share in study.captions),
            tuple(Sampling(steps) for steps in study.main_steps[1:]),
        ),
        Question(
            "samplers", pair,
            tuple(Sampling(steps, s) for s in study.samplers for steps in study.steps),
        ),
        Question(
            "loss_weights",
            (*pair, *(replace(arm, p2_gamma=gamma) for gamma in others for arm in pair)),
            main, spread=True,
        ),
        Question("wall_time", pair),
    )  # fmt: skip


def plans_of(questions: Iterable[Question], seed: int, longest: int) -> list[Plan]:
    """One plan an arm, in the order of first asking; `longest` is the most sampling steps."""
    asked: dict[Arm, list[Question]] = {}
    for question in questions:
        for arm in question.arms:
            asked.setdefault(replace(arm, seed=seed), []).append(question)
    return [_merged(arm, questions, longest) for arm, questions in asked.items()]


def _merged(arm: Arm, questions: list[Question], longest: int) -> Plan:
    timesteps = any(question.timesteps for question in questions)
    samplings = {sampling for question in questions for sampling in question.samplings}
    if timesteps:
        samplings.add(Sampling(longest))
    spread = {s for question in questions if question.spread for s in question.samplings}
    return Plan(arm, tuple(sorted(samplings)), tuple(sorted(spread)), timesteps)
