"""The gate at work: decides for every caption fraction whether its champion is replaced."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.metadata import table
from corgi_core.config import ALL_CAPTIONS
from corgi_core.io.model_index import CHAMPION, champion_of, digest_in
from orchestration.resources.champions import Champions, candidate_of
from orchestration.resources.model_registry import Registry
from orchestration.resources.promotion_history import Entry, Event

if TYPE_CHECKING:
    from corgi_core.evaluation.promotion import Candidate
    from corgi_core.evaluation.report import Evaluation as Report

CHECK = "promotion"
PROMOTION_CHECK = dg.AssetCheckSpec(
    CHECK,
    asset="registered_models",
    description="Which challengers became champions, which were refused, and why; it warns where "
    "a champion's alias was changed in MLflow, or blocking checks stop all promotions.",
)
NOT_DECIDING = (Event.ADOPTED, Event.ROLLED_BACK, Event.RESTORED)  # found in MLflow


@dataclass(frozen=True)
class Gate:
    """Decides among the priors of one evaluation, whose registry is locked meanwhile.

    Attributes:
        registry: The models.
        champions: Of the registry.
        evaluation: The scores.
        encoders: The `spec` of the embeddings of all evaluated priors.
        failed_checks: Blocking checks that have not passed.
    """

    registry: Registry
    champions: Champions
    evaluation: "Report"
    encoders: Mapping[str, Any]
    failed_checks: Sequence[str]

    def decide(self, versions: Mapping[tuple[str, str], str]) -> list[Entry]:
        """Decide for every caption fraction, and then for all; what was decided.

        Args:
            versions: The evaluated priors' versions by (variant, caption subset).
        """
        entries, subsets = list[Entry](), dict.fromkeys(subset for _, subset in versions)
        for subset in subsets:
            challengers = [version for (_, s), version in versions.items() if s == subset]
            entries += self._decided(champion_of(subset), challengers, subset == ALL_CAPTIONS)
        of_fractions = [self.champions.present("prior", champion_of(s)) for s in subsets]
        challengers = [version for version in of_fractions if version is not None]
        return entries + self._decided(CHAMPION, challengers, ALL_CAPTIONS in subsets)

    def _decided(self, alias: str, challengers: Sequence[str], all_captions: bool) -> list[Entry]:
        from corgi_core.evaluation.promotion import Verdict, baselines_for, decide

        present = self.champions.present("prior", alias)
        candidates = self._candidates(alias, [v for v in challengers if v != present])
        if not candidates:
            return []
        champion, why_none, unreadable = self._champion(present)
        checks = ", ".join(self.failed_checks)
        obstacle = f"blocking checks have not passed: {checks}" if checks else unreadable
        baselines = baselines_for(self.evaluation, all_captions)
        decision = decide(list(candidates.values()), champion, baselines, obstacle, why_none)
        version = next(v for v, each in candidates.items() if each.name == decision.challenger)
        reason, numbers = decision.reason, decision.numbers
        if decision.verdict is Verdict.PROMOTED:
            event = Event.PROMOTED
            return self.champions.promote("prior", alias, version, event, reason, present, numbers)
        return [self.champions.refuse("prior", alias, version, reason, numbers)]

    def _candidates(self, alias: str, challengers: Sequence[str]) -> "dict[str, Candidate]":
        """Those of some versions that may become champion, by version."""
        barred, there = self.champions.barred("prior", alias), self._versions
        return {
            version: candidate_of(self.evaluation, version, there[version].tags)
            for version in challengers
            if version not in barred
        }

    def _champion(self, version: str | None) -> "tuple[Candidate | None, str, str]":
        """The champion to compare with; where there is none, why; and why it cannot be read."""
        from corgi_core.errors import CorgiError
        from corgi_core.evaluation.stored_models import StoredPrior

        if version is None:
            return None, "there was no champion", ""
        found = candidate_of(self.evaluation, version, self._versions[version].tags)
        try:
            folder = self.registry.model("prior", version).folder
            if digest_in(folder) is None:
                return None, f"the files of the champion {found.name} are gone", ""
            encoders = StoredPrior.load(folder).encoders
        except CorgiError as error:
            problem = f"the champion {found.name} cannot be read now: {error.problem}"
            return found, "", f"{problem}; `corgi promote` replaces it all the same"
        if encoders != self.encoders:
            return None, f"the champion {found.name} belongs to other encoders than today's", ""
        return found, "", ""

    @property
    def _versions(self) -> Mapping[str, Any]:
        return self.registry.versions("prior")


def check_result(entries: Sequence[Entry], failed_checks: Sequence[str]) -> dg.AssetCheckResult:
    """What Dagster shows of some decisions: a sentence for each, and all numbers as a table."""
    import pandas as pd

    rows = [
        {
            "part": each.part, "alias": each.alias, "decision": each.event.value,
            "model": each.model, "version": each.version, "before": each.before or "",
            "score": score.get("score", ""), "champion": score.get("a"),
            "challenger": score.get("b"), "low": score.get("low"), "high": score.get("high"),
            "reason": each.reason,
        }
        for each in entries
        for score in each.numbers.get("scores") or [{}]
    ]  # fmt: skip
    sentences = [f"{e.part} {e.alias}: {e.model} {e.event}, {e.reason}" for e in entries]
    strange = [each for each in entries if each.event in NOT_DECIDING]
    return dg.AssetCheckResult(
        check_name=CHECK,
        passed=not strange and not failed_checks,
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(sentences) or "nothing new to decide",
        metadata={"decisions": table(pd.DataFrame(rows))} if rows else {},
    )
