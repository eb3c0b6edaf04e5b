"""The arms of a study: none twice, shared among sweeps, readable names."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from corgi_core.config import PRESETS, preset_named
from corgi_core.errors import CorgiError
from corgi_core.experiments.prior_ablation.arms import (
    BASELINE,
    BASELINE_RAW,
    CAPTIONS,
    SHIFT_ONLY,
    Arm,
    Start,
    shifted,
    shifted_text,
)
from corgi_core.experiments.prior_ablation.sweeps import Sampling, plans_of, sweeps_of

presets = pytest.mark.parametrize("name", sorted(PRESETS))


@presets
def test_every_arm_is_trained_once_and_every_name_is_one_folder(name: str) -> None:
    preset = preset_named(name)
    plans = plans_of(sweeps_of(preset), 1, preset.study.steps[-1])
    arms = [plan.arm for plan in plans]
    assert len(set(arms)) == len(arms)
    names = [arm.name for arm in arms]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9.-]+", name) for name in names)
    assert {arm.seed for arm in arms} == {1}


@presets
def test_every_question_finds_what_it_asked_for(name: str) -> None:
    preset = preset_named(name)
    sweeps = sweeps_of(preset)
    plans = {plan.arm: plan for plan in plans_of(sweeps, 0, preset.study.steps[-1])}
    for sweep in sweeps:
        for arm in sweep.arms:
            plan = plans[arm]
            assert set(sweep.samplings) <= set(plan.samplings), sweep.name
            assert not sweep.spread or set(sweep.samplings) <= set(plan.spread)
            assert plan.timesteps or not sweep.timesteps
            assert len(set(plan.samplings)) == len(plan.samplings)


BEYOND = {"network", "flow", "autoguidance", "contrast", "sizes", "modes", "source"}


def test_the_baseline_serves_every_question_of_the_paper() -> None:
    preset = preset_named("emoji")
    sweeps = [sweep for sweep in sweeps_of(preset) if sweep.name not in BEYOND]
    assert len(sweeps) == len(sweeps_of(preset)) - len(BEYOND)
    asking = [sweep for sweep in sweeps if Arm(BASELINE) in sweep.arms]
    beyond = ("network", "flow", "autoguidance")  # the paper
    assert len(asking) == sum(sweep.name not in beyond for sweep in sweeps)
    plans = plans_of(sweeps, 0, 64)
    assert len(plans) < sum(len(sweep.arms) for sweep in sweeps) / 1.5


def test_following_the_timesteps_needs_the_longest_sampling() -> None:
    sweeps = [q for q in sweeps_of(preset_named("emoji")) if q.name == "timesteps"]
    assert all(plan.samplings == (Sampling(64),) for plan in plans_of(sweeps, 0, 64))


def test_names_say_what_an_arm_is() -> None:
    assert [start.name for start in (BASELINE, BASELINE_RAW, SHIFT_ONLY)] == [
        "baseline", "baseline-raw", "shift-only",
    ]  # fmt: skip
    arm = Arm(shifted(2.5, gaussians=16), captions=0.017, seed=3)
    assert arm.name == "shifted-k16-kappa2.5-captions1.7pc-seed3"
    assert replace(arm, captions=1.0).name == "shifted-k16-kappa2.5-seed3"
    weighted = Arm(shifted_text(1.0)).with_setting("p2_gamma", 1.0).with_setting("contrast", 0.03)
    assert weighted.name == "shifted-text-kappa1-p2-gamma1-contrast0.03-seed0"
    assert weighted.label == "shifted for every caption, κ = 1, γ = 1, contrast = 0.03"


def test_starts_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="one Gaussian"):
        Start(shift=False, gaussians=2)
    with pytest.raises(ValueError, match="scale"):
        Start(scale="wide")
    with pytest.raises(ValueError, match="kind"):
        Start(kind="many")
    with pytest.raises(ValueError, match="one Gaussian"):
        Start(gaussians=2, kind=CAPTIONS)


def test_the_settings_choose_among_the_sweeps() -> None:
    preset = preset_named("emoji")
    names = [sweep.name for sweep in sweeps_of(preset)]
    chosen = replace(preset, study=replace(preset.study, sweeps=("guidance", "steps")))
    assert [sweep.name for sweep in sweeps_of(chosen)] == ["steps", "guidance"]
    wrong = replace(preset, study=replace(preset.study, sweeps=("step",)))
    with pytest.raises(CorgiError, match="no sweep 'step'") as refused:
        sweeps_of(wrong)
    assert all(name in refused.value.remedy for name in names)
