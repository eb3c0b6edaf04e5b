"""Whether a model takes the champion's place: the gate, as a function of scores alone.

The challenger must be better than the champion on the same validation captions: in cosine beyond
the interval of a paired bootstrap, and in no recall worse beyond it, as the cosine alone rewards
the mean of all images.

A baseline that is better than a model beyond the interval in every score dominates it. Of several
candidates the best of those that none dominates is the challenger, if there is one. A dominated one
takes no title from a champion that is not dominated. A dominated champion loses it to a challenger
that is not, if this is better in any score; where both are dominated, the better one has it. Where
there is no champion yet, the challenger becomes it. What baselines are better is named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from corgi_core.evaluation.paired import CaptionScores, Difference, differences
from corgi_core.evaluation.report import LINEAR, SCORES, UNTRAINED, Evaluation
from corgi_core.metrics.bootstrap import CONFIDENCE

DECIDING = SCORES[0]  # the score in which a challenger must be better; in the others, not worse


class Verdict(StrEnum):
    """What becomes of a challenger."""

    PROMOTED = "promoted"
    REFUSED = "refused"  # the champion, if there is one, stays


@dataclass(frozen=True)
class Candidate:
    """A model, and its scores on the validation captions, if it has any under today's protocol."""

    name: str
    digest: str
    scores: CaptionScores | None

    def mean(self, score: str) -> float:
        """Of a candidate that has scores."""
        assert self.scores is not None, f"{self.name} has no scores"
        return float(self.scores.scores[score].mean())


@dataclass(frozen=True)
class Decision:
    """A verdict and all that it rests on.

    Attributes:
        verdict: Whether the challenger becomes the champion.
        reason: Why, in a sentence.
        challenger: Its name.
        champion: The name of the champion that it met, if there was one.
        differences: Challenger minus champion, by score; empty where they were not compared.
        confidence: Of the intervals.
        baselines: The scores in which a baseline is better than the challenger beyond the interval,
            by the baseline's name.
        champion_baselines: The same of the champion.
        protocol: The digest of the protocol of all scores.
    """

    verdict: Verdict
    reason: str
    challenger: str
    champion: str | None = None
    differences: tuple[Difference, ...] = ()
    confidence: float = CONFIDENCE
    baselines: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    champion_baselines: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    protocol: str | None = None

    @property
    def numbers(self) -> dict[str, Any]:
        """All that is no word, as JSON has it."""
        return {
            "scores": [asdict(each) for each in self.differences],
            "confidence": self.confidence,
            "baselines": {name: list(scores) for name, scores in self.baselines.items()},
            "champion_baselines": {
                name: list(scores) for name, scores in self.champion_baselines.items()
            },
            "protocol": self.protocol,
        }


def decide(
    candidates: Sequence[Candidate],
    champion: Candidate | None,
    baselines: Mapping[str, CaptionScores],
    obstacle: str = "",
    without_champion: str = "there was no champion",
) -> Decision:
    """Whether the best of some candidates becomes the champion.

    The challenger is the one with the highest validation cosine of those that no baseline
    dominates; of all, where each is dominated. As it is the best of several on these very captions,
    the intervals are widened for their number (Bonferroni).

    Args:
        candidates: At least one; the champion is none of them.
        champion: The present one; None where there is none to compare with.
        baselines: Scores of the baselines by name, on the same captions.
        obstacle: Why nothing may be promoted now, such as a blocking check that has not passed;
            empty where something may.
        without_champion: Why there is none.

    Raises:
        CorgiError: the scores are of different protocols or captions.
    """
    scored = [each for each in candidates if each.scores is not None]
    if not scored:
        name = candidates[0].name
        return Decision(
            Verdict.REFUSED,
            f"{name} has no validation scores under today's protocol: materialise `evaluation`",
            name,
            champion.name if champion else None,
        )
    confidence = 1 - (1 - CONFIDENCE) / len(scored)
    challenger, better = _challenger(scored, baselines, confidence)
    compared: tuple[Difference, ...] = ()
    better_than_champion: Mapping[str, tuple[str, ...]] = {}
    if champion is not None and champion.scores is not None:
        compared = _differences(champion, challenger, confidence)
        better_than_champion = _better_baselines(champion, baselines, confidence)
    if obstacle:
        verdict, reason = Verdict.REFUSED, obstacle
    elif champion is None:
        verdict, reason = Verdict.PROMOTED, f"{without_champion}, and {_first(challenger, better)}"
    elif champion.scores is None:
        verdict = Verdict.REFUSED
        reason = (
            f"the champion {champion.name} has no validation scores under today's protocol: "
            "materialise `evaluation`"
        )
    else:
        verdict, reason = _judged(compared, _dominating(better), _dominating(better_than_champion))
    assert challenger.scores is not None
    return Decision(
        verdict,
        reason + _width_note(compared, confidence, len(scored)),
        challenger.name,
        champion.name if champion else None,
        compared,
        confidence,
        better,
        better_than_champion,
        challenger.scores.protocol.digest,
    )


def _challenger(
    candidates: Sequence[Candidate], baselines: Mapping[str, CaptionScores], confidence: float
) -> tuple[Candidate, Mapping[str, tuple[str, ...]]]:
    """The best candidate that no baseline dominates, or else the best; and what is better."""
    ranked = sorted(candidates, key=lambda each: each.mean(DECIDING), reverse=True)
    passed_over = list[Mapping[str, tuple[str, ...]]]()
    for candidate in ranked:
        better = _better_baselines(candidate, baselines, confidence)
        if not _dominating(better):
            return candidate, better
        passed_over.append(better)
    return ranked[0], passed_over[0]


def _first(challenger: Candidate, better: Mapping[str, tuple[str, ...]]) -> str:
    """Why a challenger without a champion is promoted."""
    best = "the best candidate" if _dominating(better) else "the best that no baseline dominates"
    beaten = [f"; baseline {name} is better in {_listed(s)}" for name, s in better.items()]
    return f"it is {best}: {DECIDING} {challenger.mean(DECIDING):.4f}{''.join(beaten)}"


def _judged(
    compared: Sequence[Difference], dominating: str, dominating_champion: str
) -> tuple[Verdict, str]:
    """The verdict on a challenger that was compared with a champion, and why.

    Args:
        compared: Challenger minus champion, by score.
        dominating: A baseline that dominates the challenger; "" for none.
        dominating_champion: The same of the champion.
    """
    if dominating and not dominating_champion:
        return Verdict.REFUSED, f"the baseline {dominating} is better in {_listed(SCORES)}"
    ahead = [each for each in compared if each.low > 0]
    if dominating_champion and not dominating and ahead:
        return Verdict.PROMOTED, (
            f"no baseline dominates it, and {dominating_champion} is better than the champion in "
            f"{_listed(SCORES)}: {_described(ahead[0])}"
        )
    deciding = next(each for each in compared if each.score == DECIDING)
    if deciding.low <= 0:
        how = "worse" if deciding.high < 0 else "not better beyond the interval"
        return Verdict.REFUSED, f"{how}: {_described(deciding)}"
    if worse := [each for each in compared if each.high < 0]:
        return Verdict.REFUSED, f"{_described(deciding)}, but worse in {_described(worse[0])}"
    both = f"; the baseline {dominating} is better than both in every score" if dominating else ""
    return Verdict.PROMOTED, f"better: {_described(deciding)}{both}"


def baselines_for(evaluation: Evaluation, all_captions: bool) -> dict[str, CaptionScores]:
    """The baselines' validation scores that a prior must not fall behind.

    Args:
        evaluation: The evaluation.
        all_captions: Whether the prior learned from all captions. The linear maps did: a prior that
            learned from a few of them is not compared with those.
    """
    fair = (*UNTRAINED, *LINEAR) if all_captions else UNTRAINED
    found = {name: validation_scores(evaluation, name) for name in fair}
    return {name: scores for name, scores in found.items() if scores is not None}


def validation_scores(evaluation: Evaluation, model: str) -> CaptionScores | None:
    """The scores of a model, by its digest or its name, on each validation caption."""
    if evaluation.validation is None:
        return None
    rows = evaluation.validation.query("model == @model").drop(columns="model")
    if rows.empty:
        return None
    return CaptionScores(rows.reset_index(drop=True), evaluation.protocol.on_validation(len(rows)))


def _better_baselines(
    challenger: Candidate, baselines: Mapping[str, CaptionScores], confidence: float
) -> dict[str, tuple[str, ...]]:
    """By baseline, the scores in which it is better beyond the interval; those without are left."""
    found = {}
    for name, scores in baselines.items():
        above = _differences(challenger, Candidate(name, name, scores), confidence)
        found[name] = tuple(each.score for each in above if each.low > 0)
    return {name: scores for name, scores in found.items() if scores}


def _dominating(better: Mapping[str, tuple[str, ...]]) -> str:
    """A baseline that is better in every score, of those that are better in any; "" for none."""
    return next((name for name, scores in better.items() if set(scores) == set(SCORES)), "")


def _differences(a: Candidate, b: Candidate, confidence: float) -> tuple[Difference, ...]:
    assert a.scores is not None
    assert b.scores is not None
    return tuple(differences({0: a.scores}, {0: b.scores}, (a.name, b.name), confidence=confidence))


def _described(difference: Difference) -> str:
    d = difference
    return (
        f"{d.score.replace('_', ' ')} {d.b:.4f} against {d.a:.4f}, {d.value:+.4f} "
        f"({d.low:+.4f} to {d.high:+.4f})"
    )


def _width_note(compared: Sequence[Difference], confidence: float, candidates: int) -> str:
    if not compared or candidates == 1:
        return ""
    return f" [intervals of {100 * confidence:.3g} %, as it is the best of {candidates} candidates]"


def _listed(scores: Sequence[str]) -> str:
    words = [score.replace("_", " ") for score in scores]
    return ", ".join(words[:-1]) + (" and " if len(words) > 1 else "") + words[-1]
