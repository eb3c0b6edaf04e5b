"""Which priors a retrain trains, from what, for how long, and what it says where it cannot."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from corgi_core.config import TrainingSettings
from corgi_core.errors import CorgiError
from corgi_core.io.files import write_json
from corgi_core.io.model_folder import digest_of_config
from corgi_core.io.model_index import (
    MODELS_FILE,
    IndexedModel,
    ModelIndex,
    TextEncoderName,
    champion_of,
)
from orchestration.automation.retrain import Outcome, Retrain, decision_on
from orchestration.automation.schedules import weekly_retrain_of
from orchestration.resources.promotion_history import PROMOTIONS, Entry, Event, History
from orchestration.resources.warm_start import (
    BUDGET,
    CONTINUES_FROM,
    ParentModel,
    WarmStart,
    last_training,
    speed_of,
)
from orchestration.settings import Settings

FULL = TrainingSettings(steps=400, batch_size=8, learning_rate=1e-2, warmup_steps=50, seed=3)
PRIOR, KEY = dg.AssetKey("prior"), "1.7%|shifted-k1"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_environment({"CORGI_HOME": str(tmp_path)})


@pytest.fixture
def promote(settings: Settings) -> Callable[..., Path]:
    """Makes a folder of a variant's prior the champion of some caption subsets."""

    def made(variant: str, *subsets: str) -> Path:
        folder = settings.state / "registered"
        config = {"kind": "prior", "weights": variant}
        write_json(folder / "config.json", config)
        write_json(folder / "card.json", {"labels": {"variant": variant}, "generation": 2})
        model = IndexedModel(folder, digest_of_config(config))
        models = {"prior": {champion_of(subset): model for subset in subsets}}
        index = ModelIndex(settings.workspace, TextEncoderName("minilm", 8), models)
        index.save(settings.state / MODELS_FILE)
        return folder

    return made


def test_a_retrain_is_of_the_scarce_captions_and_their_champions_variant(
    settings: Settings, promote: Callable[..., Path]
) -> None:
    promote("shifted-k1", "1.7%", "10%")
    assert Retrain().priors(settings) == ["1.7%|shifted-k1", "10%|shifted-k1"]
    assert Retrain(fractions=["10%"], variant="shifted-k1").priors(settings) == ["10%|shifted-k1"]
    from_scratch = Retrain(parent="", fractions=["100%"]).priors(settings)
    assert from_scratch == [f"100%|{variant}" for variant in settings.preset.variants]


def test_what_cannot_be_retrained_is_said(settings: Settings, promote: Callable[..., Path]) -> None:
    with pytest.raises(CorgiError, match="nothing is registered"):
        Retrain().priors(settings)
    folder = promote("shifted-k1", "10%")
    for wanted, problem in (
        (Retrain(), "no champion of 1.7% of the captions"),
        (Retrain(fractions=["10%"], variant="baseline"), "is shifted-k1, not baseline"),
        (Retrain(fractions=["3%"]), "there is no caption fraction '3%'"),
        (Retrain(variant="k9"), "there is no variant 'k9'"),
        (Retrain(steps=0), "a budget of 0 steps trains nothing"),
        (Retrain(minutes=-1), "a budget of -1 minutes trains nothing"),
        (Retrain(steps=1, minutes=1), "in steps or in minutes"),
        (Retrain(parent="best"), "cannot continue from 'best'"),
    ):
        with pytest.raises(CorgiError, match=problem):
            wanted.priors(settings)
    shutil.rmtree(folder)
    with pytest.raises(CorgiError, match="should hold the prior"):
        Retrain(fractions=["10%"]).priors(settings)


def test_a_champion_of_a_variant_that_is_gone_is_no_retrain_that_trains_nothing(
    settings: Settings, promote: Callable[..., Path]
) -> None:
    promote("k9", "10%")
    with pytest.raises(CorgiError, match="10% of the captions is k9, which the preset has no more"):
        Retrain(fractions=["10%"]).priors(settings)


def test_the_weeks_run_is_one_and_is_skipped_without_data_or_champions(
    settings: Settings, promote: Callable[..., Path]
) -> None:
    def tick(day: int, settings: Settings = settings) -> Any:
        moment = datetime(2026, 1, day, 3, tzinfo=UTC)
        context = dg.build_schedule_context(scheduled_execution_time=moment)
        return weekly_retrain_of(settings).evaluate_tick(context)

    assert "nothing is registered" in (tick(5).skip_message or "")
    mine = Settings.load({"CORGI_HOME": str(settings.home)}, dataset="mine")
    assert "there are no data in" in (tick(5, mine).skip_message or "")
    promote("shifted-k1", "1.7%", "10%")
    keys = [[request.run_key for request in tick(day).run_requests or []] for day in (5, 6, 12)]
    assert keys == [["2026-W02"], ["2026-W02"], ["2026-W03"]]


def test_a_budget_is_a_quarter_or_steps_or_minutes_by_the_last_trainings_speed() -> None:
    warm = WarmStart(parent="champion").training(FULL, 1, None)
    assert (warm.steps, warm.warmup_steps, warm.learning_rate, warm.seed) == (100, 10, 2.5e-3, 4)
    assert WarmStart().training(FULL, 0, None) == FULL
    assert WarmStart(steps=7).training(FULL, 0, None).steps == 7
    longer = WarmStart(parent="champion", steps=800).training(FULL, 2, None)
    assert (longer.steps, longer.learning_rate, longer.seed) == (800, 1e-2, 5)
    timed = WarmStart(parent="champion", minutes=1.5)
    assert timed.training(FULL, 1, speed=2.0).steps == 180
    with pytest.raises(CorgiError, match="in a minute is not known"):
        timed.training(FULL, 1, None)


def test_the_speed_and_the_start_of_the_last_training_are_on_record() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert speed_of(last_training(instance, PRIOR, KEY)) is None
        for steps, parent in ((100, "scratch"), (300, "abc")):
            about = {"steps": steps, "training_seconds": 50.0, BUDGET: "the default"}
            instance.report_runless_asset_event(
                dg.AssetMaterialization(
                    PRIOR, metadata=about | {CONTINUES_FROM: parent}, partition=KEY
                )
            )
        last = last_training(instance, PRIOR, KEY)
        assert speed_of(last) == 6.0
        assert last_training(instance, PRIOR, "10%|shifted-k1") is None
    assert last is not None
    warm, known = WarmStart(parent="champion"), last[1]
    assert warm.difference(known, "abc") is None
    assert warm.difference(known, "def") == "continues from the prior def"
    assert WarmStart().difference(known, None) == "starts from scratch"
    longer = WarmStart(parent="champion", steps=5).difference(known, "abc")
    assert longer == "the budget was the default, and is 5 steps"


def test_what_came_of_it_is_one_sentence() -> None:
    moment = datetime(2026, 1, 5, 3, 7, tzinfo=UTC)
    about, decision = "from the prior abc, 9 steps", "refused: no better"
    before = Outcome("prior 1.7% shifted-k1", False, moment, about, decision)
    assert before.sentence == (
        "prior 1.7% shifted-k1: nothing to train, trained 2026-01-05 03:07 UTC from the prior abc, "
        "9 steps; refused: no better."
    )


def test_a_decision_is_on_the_prior_and_says_what_came_after_it(tmp_path: Path) -> None:
    history, alias = History(tmp_path / PROMOTIONS), champion_of("10%")
    for event, version, reason in (
        (Event.PROMOTED, "1", "first."), (Event.PROMOTED, "2", "better"),
        (Event.ROLLED_BACK, "1", "grey"), (Event.PROMOTED, "3", "better"),
        (Event.REFUSED, "4", "worse"),
    ):  # fmt: skip
        history.append(
            Entry("2026-01-05", event, "prior", alias, version, f"d{version}", "v", reason)
        )
    assert [decision_on(history, "10%", f"d{version}") for version in range(1, 6)] == [
        f"rolled back: grey; by now version 3 is {alias}",
        f"it was rolled back from as {alias}, and only `corgi promote` makes it that again",
        "promoted: better",
        "refused: worse",
        f"it did not challenge {alias}: another prior of that fraction scored higher",
    ]


def test_the_parents_generation_is_counted(
    settings: Settings, promote: Callable[..., Path]
) -> None:
    promote("shifted-k1", "1.7%")
    parent = ParentModel.champion(settings.state / MODELS_FILE, "1.7%")
    assert parent.card == {"parent": parent.digest, "generation": 3}
