"""The quarter's rows say what happened, week by week; the drill's own steps are stood in for."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

from benchmarks.quarter import MORE, STEPS, WEEKS, Week, tick
from corgi_core.errors import CorgiError


@dataclass
class Practice:
    """Records what is asked of it."""

    trained: bool = True
    earlier: str | None = "1"
    asked: list[object] = field(default_factory=list)

    def add(self, style: str, count: int, name: str) -> None:
        self.asked.append((style, count, name))

    def embed(self) -> None:
        self.asked.append("embed")

    def alerts(self) -> list[str]:
        return ["image_embeddings: 300 new embeddings are not like those …"]

    def retrain(self, steps: int, *, from_scratch: bool = False) -> SimpleNamespace:
        self.asked.append((steps, from_scratch))
        return SimpleNamespace(trained=self.trained, decision="refused: worse")

    def roll_back(self, _reason: str) -> list[SimpleNamespace]:
        if self.earlier is None:
            raise CorgiError("there is no earlier model", "none")
        return [SimpleNamespace(version=self.earlier)]


def test_new_data_are_embedded_before_the_retrain_and_alerts_are_named() -> None:
    practice = Practice()
    row = tick(practice, 3, Week("sketch"))  # type: ignore[arg-type]
    assert practice.asked == [("sketch", MORE, "week03"), "embed", (STEPS, False)]
    assert row == ("sketch", "image", "trained: refused: worse")


def test_a_bad_retrain_starts_from_scratch_and_a_week_without_data_embeds_nothing() -> None:
    practice = Practice(trained=False)
    row = tick(practice, 4, Week(badly=True))  # type: ignore[arg-type]
    assert practice.asked == [(3, True)]
    assert row[2] == "nothing to train; last refused: worse"


def test_a_rollback_is_said_and_one_that_is_impossible_too() -> None:
    week = Week(rolled_back=True)
    assert tick(Practice(), 5, week)[2].endswith("then rolled back to version 1")  # type: ignore[arg-type]
    row = tick(Practice(earlier=None), 5, week)  # type: ignore[arg-type]
    assert row[2].endswith("no rollback: there is no earlier model")


def test_a_quarter_has_twelve_weeks_one_bad_challenger_and_one_rollback() -> None:
    assert len(WEEKS) == 12
    assert sum(week.badly for week in WEEKS) == sum(week.rolled_back for week in WEEKS) == 1
    assert 0 < sum(week.style is not None for week in WEEKS) < 12
