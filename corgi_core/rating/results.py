"""From votes to results: who is trusted, how often each model is preferred, how far raters agree.

The votes of flagged raters and second votes on the same question count in no result. A ranking is
read as a vote between every two of its models.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from corgi_core.errors import CorgiError
from corgi_core.io.files import atomic_file, digest_of, write_json
from corgi_core.metrics.ratings.agreement import krippendorff_alpha
from corgi_core.metrics.ratings.bradley_terry import bradley_terry
from corgi_core.metrics.ratings.random_raters import (
    RaterVotes,
    Verdict,
    judged,
    preferences,
    shares,
)
from corgi_core.metrics.ratings.win_rates import RATES, wilson
from corgi_core.rating.votes import ASPECTS, Vote

RESULTS, TABLE, VOTES = "ratings.json", "ratings.md", "votes.csv"
STRENGTH, AGREEMENT = "strength", "agreement"


@dataclass(frozen=True)
class Row:
    """One result.

    Attributes:
        aspect: "alignment" or "fidelity".
        metric: "win rate", "same rate", "loss rate", "strength" or "agreement".
        model: Whose; "" for the agreement of raters.
        other: The model that it is compared with, for rates.
        value: The value.
        low: The lower end of its 95 % interval; None where it has none.
        high: The upper end.
        votes: How many votes it is of.
    """

    aspect: str
    metric: str
    model: str
    other: str
    value: float
    low: float | None
    high: float | None
    votes: int


@dataclass(frozen=True)
class RatingResults:
    """The results of a survey's votes.

    Attributes:
        models: That were compared, in alphabetical order.
        verdicts: What is thought of each rater.
        rows: The results, of the raters who are not flagged.
        votes: All votes, also those that do not count.
    """

    models: tuple[str, ...]
    verdicts: dict[str, Verdict]
    rows: tuple[Row, ...]
    votes: tuple[Vote, ...]

    @property
    def flagged(self) -> dict[str, str]:
        """Why raters do not count, by rater."""
        return {name: each.reason for name, each in self.verdicts.items() if each.reason}

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Every two models that were compared with each other."""
        return list(dict.fromkeys((row.model, row.other) for row in self.rows if row.other))

    def row(self, aspect: str, metric: str, model: str = "", other: str = "") -> Row:
        """The row of a metric, which is there."""
        wanted = (aspect, metric, model, other)
        return next(r for r in self.rows if (r.aspect, r.metric, r.model, r.other) == wanted)

    @property
    def digest(self) -> str:
        """Identifies the votes."""
        return digest_of([asdict(vote) for vote in self.votes])

    def _counts(self, vote: Vote) -> bool:
        """Whether a vote counts: it is a first one, of a rater who is not flagged."""
        return vote.repeats is None and vote.rater not in self.flagged

    def save(self, folder: Path, prefix: str = "") -> None:
        """Write the rows, a table to read and all votes into a folder, as `prefix` and a name."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(
            folder / f"{prefix}{RESULTS}",
            {
                "models": self.models,
                "rows": [asdict(row) for row in self.rows],
                "raters": {name: asdict(verdict) for name, verdict in self.verdicts.items()},
                "votes": len(self.votes),
            },
        )
        for name, text in ((TABLE, self.markdown()), (VOTES, self.csv())):
            with atomic_file(folder / f"{prefix}{name}") as temporary:
                temporary.write_text(text, encoding="utf-8")

    def markdown(self) -> str:
        """The results as a page."""
        counted = sum(map(self._counts, self.votes))
        lines = [
            "# Human evaluation", "",
            f"Votes: {counted:,}. Raters: {len(self.verdicts) - len(self.flagged)}. Intervals are "
            "95 %: Wilson's for rates, a bootstrap over prompts for strengths.", "",
        ]  # fmt: skip
        for aspect in ASPECTS:
            rates = {
                (row.model, row.other, row.metric): row for row in self.rows if row.aspect == aspect
            }
            lines += [
                f"## {aspect.capitalize()}", "",
                "| model | better than | same as | worse than | other model | votes |",
                "|---|--:|--:|--:|---|--:|",
            ]  # fmt: skip
            for model, other, metric in rates:
                if metric == RATES[1]:
                    better, same, worse = (rates[model, other, name] for name in RATES.values())
                    cells = " | ".join(_percent(each) for each in (better, same, worse))
                    lines.append(f"| {model} | {cells} | {other} | {better.votes} |")
            lines += ["", "| model | strength (log-odds, mean 0) |", "|---|--:|"]
            lines += [
                f"| {row.model} | {_strength(row)} |"
                for row in sorted(rates.values(), key=lambda row: -row.value)
                if row.metric == STRENGTH
            ]
            lines += [""]
            lines += [
                f"Agreement of the raters (Krippendorff's alpha): {row.value:.2f}\n"
                for row in rates.values()
                if row.metric == AGREEMENT
            ]
        if self.flagged:
            lines += ["## Raters whose votes do not count", ""]
            lines += [
                f"- {name} ({self.verdicts[name].votes} votes): {reason}"
                for name, reason in self.flagged.items()
            ]
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        """All votes, one a line; models and ranks by position, separated by spaces."""
        lines = ["rater,slot,prompt,seed,repeats,models,alignment,fidelity,seconds,counts"]
        for vote in self.votes:
            repeats = "" if vote.repeats is None else vote.repeats
            listed = [" ".join(map(str, each)) for each in (vote.models, *_ranks(vote))]
            lines.append(
                f"{vote.rater},{vote.slot},{vote.prompt},{vote.seed},{repeats},"
                f"{','.join(listed)},{vote.seconds:.2f},{int(self._counts(vote))}"
            )
        return "\n".join(lines) + "\n"


class _Unit(NamedTuple):
    """What raters may agree on: two models' pictures of a prompt with a seed."""

    prompt: int
    seed: int
    models: tuple[str, str]


def results_of(votes: Sequence[Vote]) -> RatingResults:
    """The results of votes.

    Raises:
        CorgiError: If there are no votes, or all are of raters who are flagged.
    """
    if not votes:
        raise CorgiError("nobody has voted yet", "open the page of `corgi rate`, and vote")
    models = tuple(sorted({model for vote in votes for model in vote.models}))
    by_rater: dict[str, list[Vote]] = defaultdict(list)
    for vote in votes:
        by_rater[vote.rater].append(vote)
    verdicts = {rater: _verdict(rater, by_rater) for rater in by_rater}
    counted = [vote for vote in votes if not verdicts[vote.rater].reason and vote.repeats is None]
    if not counted:
        raise CorgiError(
            f"all {len(verdicts)} raters are flagged ({next(iter(verdicts.values())).reason})",
            "ask others, who look at the pictures",
        )
    rows = [row for aspect in ASPECTS for row in _rows(counted, aspect, models)]
    return RatingResults(models, verdicts, tuple(rows), tuple(votes))


def _verdict(rater: str, by_rater: dict[str, list[Vote]]) -> Verdict:
    """What is thought of a rater, by the votes of all."""
    own = by_rater[rater]
    index = {vote.slot: i for i, vote in enumerate(own)}
    others: dict[tuple[object, ...], list[NDArray[np.int64]]] = defaultdict(list)
    for name, votes in by_rater.items():
        for vote in votes if name != rater else ():
            if vote.repeats is None:
                others[_question(vote)].append(_preferences(vote))
    shape = _preferences(own[0]).shape
    return judged(
        RaterVotes(
            ranks=np.array([_ranks(vote) for vote in own]),
            order=np.array([_order(vote) for vote in own]),
            first=np.array([index.get(-1 if v.repeats is None else v.repeats, -1) for v in own]),
            others=np.stack([shares(others[_question(vote)], shape) for vote in own]),
            seconds=np.array([vote.seconds for vote in own]),
        )
    )


def _question(vote: Vote) -> tuple[object, ...]:
    return vote.prompt, vote.seed, tuple(sorted(vote.models))


def _ranks(vote: Vote) -> list[tuple[int, ...]]:
    """By aspect and position."""
    return [getattr(vote, aspect) for aspect in ASPECTS]


def _order(vote: Vote) -> list[int]:
    """Which of the alphabetically ordered models was at each position."""
    return [sorted(vote.models).index(model) for model in vote.models]


def _preferences(vote: Vote) -> NDArray[np.int64]:
    """For each aspect and every two models whether the first is better, [a, pairs]."""
    ranks, order = np.array([_ranks(vote)]), np.array([_order(vote)])
    of_vote: NDArray[np.int64] = preferences(ranks, order)[0]
    return of_vote


def _rows(votes: Sequence[Vote], aspect: str, models: Sequence[str]) -> list[Row]:
    outcomes: dict[_Unit, dict[str, int]] = defaultdict(dict)  # by unit and rater
    for vote in votes:
        signs = _preferences(vote)[ASPECTS.index(aspect)]
        for (a, b), sign in zip(combinations(sorted(vote.models), 2), signs, strict=True):
            outcomes[_Unit(vote.prompt, vote.seed, (a, b))][vote.rater] = int(sign)
    rows = []
    for pair in combinations(models, 2):
        given = [s for unit, each in outcomes.items() if unit.models == pair for s in each.values()]
        for outcome, metric in RATES.items() if given else ():
            share = wilson(given.count(outcome), len(given))
            rows.append(Row(aspect, metric, *pair, *share, len(given)))
    return rows + _strengths(outcomes, aspect, models) + _agreement(outcomes, aspect)


def _strengths(
    outcomes: dict[_Unit, dict[str, int]], aspect: str, models: Sequence[str]
) -> list[Row]:
    prompts = sorted({unit.prompt for unit in outcomes})
    wins = np.zeros((len(prompts), len(models), len(models)))
    for unit, signs in outcomes.items():
        i, j = (models.index(model) for model in unit.models)
        for sign in signs.values():
            wins[prompts.index(unit.prompt), i, j] += (1 + sign) / 2
            wins[prompts.index(unit.prompt), j, i] += (1 - sign) / 2
    try:
        strengths = bradley_terry(wins)
    except CorgiError:  # not all models have been compared yet
        return []
    count = sum(map(len, outcomes.values()))
    rows = zip(models, strengths.values, strengths.low, strengths.high, strict=True)
    return [
        Row(aspect, STRENGTH, model, "", float(value), _known(low), _known(high), count)
        for model, value, low, high in rows
    ]


def _agreement(outcomes: dict[_Unit, dict[str, int]], aspect: str) -> list[Row]:
    raters = sorted({rater for each in outcomes.values() for rater in each})
    ratings = np.array(
        [[each.get(rater, np.nan) for rater in raters] for each in outcomes.values()], dtype=float
    )
    alpha = krippendorff_alpha(ratings)
    if math.isnan(alpha):
        return []
    return [Row(aspect, AGREEMENT, "", "", alpha, None, None, int((~np.isnan(ratings)).sum()))]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _strength(row: Row) -> str:
    if row.low is None or row.high is None:
        return f"{row.value:+.2f} (interval unknown: all prompts say the same)"
    return f"{row.value:+.2f} ({row.low:+.2f} to {row.high:+.2f})"


def _percent(row: Row) -> str:
    assert row.low is not None
    assert row.high is not None
    return f"{row.value:.0%} ({row.low:.0%}–{row.high:.0%})"
