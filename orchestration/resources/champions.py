"""Carries out promotions: aliases in MLflow, the history, and tags that say why.

Whatever changes a champion holds the workspace's lock and says which champion it wants to replace.
Of two that want to replace the same one, the second finds another there, and does nothing.

The history has an entry before MLflow moves the alias, and the version's tag that quotes the entry
comes last. So a process that is killed between them leaves what `reconcile` carries out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from corgi_core.errors import CorgiError
from corgi_core.io.locks import exclusive_lock
from corgi_core.io.model_index import CHAMPION, PARTS, is_champion
from orchestration.resources.model_registry import DIGEST_TAG, Registry
from orchestration.resources.promotion_history import PROMOTIONS, Entry, Event, History

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from corgi_core.evaluation.promotion import Candidate
    from corgi_core.evaluation.report import Evaluation

log = logging.getLogger(__name__)
LOCK = "promotion.lock"
PATIENCE = 120.0  # seconds to wait for another promotion
VARIANT_TAG, SUBSET_TAG = "variant", "caption_subset"
DECISION_TAG = "promotion"
LONGEST = 4000  # characters of a tag


class Champions:
    """The champions of one workspace's registry.

    Every method but `present` is called within `deciding`.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.history = History(registry.state / PROMOTIONS)

    @contextmanager
    def deciding(self) -> Iterator[list[Entry]]:
        """Hold the lock; yields what had to be restored or adopted first, see `reconcile`."""
        busy = "another promotion is being decided in this workspace"
        with exclusive_lock(self._registry.state / LOCK, busy, PATIENCE):
            yield self.reconcile()

    def present(self, part: str, alias: str = CHAMPION) -> str | None:
        """The number of the version that has an alias."""
        return self._registry.aliases(part).get(alias)

    def reconcile(self) -> list[Entry]:
        """Make MLflow and the history agree; the entries that say what was done.

        A promotion that was recorded and cut short is carried out. An alias that somebody deleted
        in MLflow is restored from the history: to the latest of its models whose version is still
        there. One that somebody moved there is adopted; to an earlier champion, it is a rollback.

        Raises:
            CorgiError: somebody gave a champion's alias to a version that Corgi did not register.
        """
        done = []
        known = {(e.part, e.alias) for e in self.history.entries()}
        for part in PARTS:
            aliases = {a: v for a, v in self._registry.aliases(part).items() if is_champion(a)}
            for alias in sorted({*aliases, *(a for p, a in known if p == part)}):
                entry = self._reconciled(part, alias, aliases.get(alias))
                if entry is not None:
                    log.warning("%s of %s: %s, %s", alias, part, entry.event, entry.reason)
                    done.append(entry)
        return done

    def _reconciled(self, part: str, alias: str, version: str | None) -> Entry | None:
        stack, there = self.history.champions(part, alias), self._registry.versions(part)
        if version is not None and DIGEST_TAG not in there[version].tags:
            raise CorgiError(
                f"{alias} of {self._registry.name(part)} is version {version} in MLflow, which "
                "Corgi did not register",
                "delete the alias on MLflow's page, and the history restores it; or give it to "
                "another version there",
            )
        move = self.history.latest_move(part, alias)
        if move and version in (move.before, move.version) and self._is_cut_short(move, there):
            return self._carried_out(move)
        expected = stack[-1].version if stack else None
        if version == expected:
            return None
        if version is not None:
            is_earlier = version in [each.version for each in stack]
            event = Event.ROLLED_BACK if is_earlier else Event.ADOPTED
            gave = "gave it back" if is_earlier else "gave it"
            reason = f"somebody {gave} to version {version} in MLflow"
            return self._carried_out(self._record(event, part, alias, version, reason, expected))
        for earlier in reversed(stack):
            if earlier.version in there:
                reason = "somebody deleted the alias in MLflow"
                if earlier.version != expected:
                    reason += f"; version {expected} is gone, so it is an earlier champion"
                return self._carried_out(
                    self._record(Event.RESTORED, part, alias, earlier.version, reason, expected)
                )
        return None

    def _is_cut_short(self, move: Entry, there: Mapping[str, ModelVersion]) -> bool:
        """Whether the version is there and does not quote the entry, which is done last."""
        if move.version not in there:
            return False
        return there[move.version].tags.get(_tag_of(move.alias)) != _quoted(move)

    def promote(
        self,
        part: str,
        alias: str,
        version: str,
        event: Event,
        reason: str,
        instead_of: str | None,
        numbers: Mapping[str, Any] | None = None,
    ) -> list[Entry]:
        """Give a version a champion's alias, and record it; the entries.

        Where `champion` was the model that loses the title of its caption fraction, it follows.

        Args:
            part: "prior", "decoder" or "clip".
            alias: The champion's.
            version: The version's number.
            event: How it came to it.
            reason: Why.
            instead_of: The version that the decision was made against; None for no champion.
            numbers: Of the decision.

        Raises:
            CorgiError: by now another version is the champion.
        """
        present = self.present(part, alias)
        if present != instead_of:
            raise CorgiError(
                f"{alias} is version {present} by now, and was to be replaced as version "
                f"{instead_of}: another promotion was first",
                "look at `corgi history`, and decide again",
            )
        if present == version:
            return []
        follows = alias != CHAMPION and present and self.present(part) == present
        entries = [self._record(event, part, alias, version, reason, present, numbers)]
        if follows:
            why = f"it was the model that {alias} has replaced"
            event = Event.ROLLED_BACK if event is Event.ROLLED_BACK else Event.FOLLOWED
            entries.append(self._record(event, part, CHAMPION, version, why, present))
        return [self._carried_out(entry) for entry in entries]

    def refuse(
        self, part: str, alias: str, version: str, reason: str, numbers: Mapping[str, Any]
    ) -> Entry:
        """Record that a challenger was refused; the same decision twice is one entry."""
        present = self.present(part, alias)
        entry = self._record(Event.REFUSED, part, alias, version, reason, present, numbers)
        return self._quoted_by_its_version(entry)

    def barred(self, part: str, alias: str) -> set[str]:
        """The versions whose title somebody took: only people give it back."""
        digests = self.history.rolled_back(part, alias)
        versions = self._registry.versions(part).items()
        return {number for number, each in versions if each.tags.get(DIGEST_TAG) in digests}

    def roll_back(self, alias: str, reason: str) -> list[Entry]:
        """Give a champion's alias back to the prior that had it before; the entries.

        Raises:
            CorgiError: there was none, or MLflow has it no longer.
        """
        stack = self.history.champions("prior", alias)
        present, there = self.present("prior", alias), self._registry.versions("prior")
        earlier = [e for e in stack if e.version != present and e.version in there]
        if present is None or not earlier:
            raise CorgiError(
                f"{alias} has no earlier model to go back to",
                "`corgi history` shows what was promoted; `corgi promote` takes any version",
            )
        version = earlier[-1].version
        return self.promote("prior", alias, version, Event.ROLLED_BACK, reason, present)

    def _record(
        self,
        event: Event,
        part: str,
        alias: str,
        version: str,
        reason: str,
        before: str | None,
        numbers: Mapping[str, Any] | None = None,
    ) -> Entry:
        """Add an entry to the history; the latest one of its alias, where that says the same."""
        tags = self._registry.versions(part)[version].tags
        moment = datetime.now(UTC).isoformat(timespec="seconds")
        entry = Entry(
            moment, event, part, alias, version, tags.get(DIGEST_TAG, ""), name_of(part, tags),
            reason, before, dict(numbers or {}),
        )  # fmt: skip
        latest = self.history.latest(part, alias)
        if latest is not None and latest.says_the_same(entry):
            return latest
        self.history.append(entry)
        return entry

    def _carried_out(self, entry: Entry) -> Entry:
        self._registry.alias(entry.part, entry.alias, entry.version)
        return self._quoted_by_its_version(entry)

    def _quoted_by_its_version(self, entry: Entry) -> Entry:
        self._registry.tag(entry.part, entry.version, _tag_of(entry.alias), _quoted(entry))
        return entry


def _tag_of(alias: str) -> str:
    return f"{DECISION_TAG}.{alias}"


def _quoted(entry: Entry) -> str:
    return f"{entry.moment} {entry.event}: {entry.reason}"[:LONGEST]


def name_of(part: str, tags: Mapping[str, str]) -> str:
    """What a version is called in tables: "shifted-k1, 1.7%", "pca" or "clip"."""
    named = [tags[tag] for tag in (VARIANT_TAG, SUBSET_TAG, "kind") if tag in tags]
    return ", ".join(named) or part


def candidate_of(evaluation: Evaluation, version: str, tags: Mapping[str, str]) -> Candidate:
    """A version of a prior with its validation scores in an evaluation."""
    from corgi_core.evaluation.promotion import Candidate, validation_scores

    digest = tags[DIGEST_TAG]
    name = f"{name_of('prior', tags)} (version {version})"
    return Candidate(name, digest, validation_scores(evaluation, digest))


def version_named(registry: Registry, word: str, caption_subset: str | None) -> str:
    """The number of a prior's version.

    Args:
        registry: The models.
        word: Its number, its digest, or a variant, which stands for the newest version of it.
        caption_subset: What it must have learned from, such as "1.7%"; None for any.

    Raises:
        CorgiError: there is none.
    """
    versions = registry.versions("prior")
    tags = {number: versions[number].tags for number in sorted(versions, key=int)}
    found = [
        number
        for number, each in tags.items()
        if DIGEST_TAG in each  # others were registered by hand, and cannot generate
        and word in (number, each[DIGEST_TAG], each.get(VARIANT_TAG))
        and caption_subset in (None, each.get(SUBSET_TAG))
    ]
    if not found:
        listed = [f"{number} ({name_of('prior', each)})" for number, each in tags.items()]
        of = f" that learned from {caption_subset} of the captions" if caption_subset else ""
        raise CorgiError(
            f"the registry has no prior {word!r}{of}",
            f"choose one of {'; '.join(listed)}" if listed else "train priors first: `corgi run`",
        )
    return found[-1]
