"""The history of promotions: a file in the workspace's state to which lines are appended.

It says who was champion when and why, and so which champion a rollback goes back to, and what an
alias that somebody deleted in MLflow stood for. Each line is one JSON object, on the disk before
the alias moves; a line that a power cut tore is not counted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

PROMOTIONS = "promotions.jsonl"


class Event(StrEnum):
    """What an entry says."""

    PROMOTED = "promoted"  # by the gate
    REFUSED = "refused"  # by the gate
    SET = "set"  # by the preset: the decoder and the CLIP encoders pass no gate
    BY_HAND = "promoted by hand"
    FOLLOWED = "followed"  # `champion`, whose model lost the title of its caption fraction
    ROLLED_BACK = "rolled back"
    ADOPTED = "found in MLflow"  # somebody moved the alias there
    RESTORED = "alias restored"  # somebody deleted it there


CROWNING = (Event.PROMOTED, Event.SET, Event.BY_HAND, Event.FOLLOWED, Event.ADOPTED)


@dataclass(frozen=True)
class Entry:
    """One line.

    Attributes:
        moment: When, in UTC, as ISO 8601.
        event: What.
        part: "prior", "decoder" or "clip".
        alias: "champion", or that of a caption fraction.
        version: The version's number that it is about: the challenger, or the champion from now on.
        digest: Of its model.
        model: What it is called.
        reason: Why, in a sentence.
        before: The number of the version that had the alias until then.
        numbers: Of the gate's decision: scores of both, intervals, baselines, the protocol.
    """

    moment: str
    event: Event
    part: str
    alias: str
    version: str
    digest: str
    model: str
    reason: str
    before: str | None = None
    numbers: Mapping[str, Any] = field(default_factory=dict)

    def says_the_same(self, other: Entry) -> bool:
        """Whether another entry differs in its moment and its words alone."""
        return self._content == other._content

    @property
    def _content(self) -> tuple[Any, ...]:
        protocol = self.numbers.get("protocol")
        return self.event, self.part, self.alias, self.digest, self.before, protocol


@dataclass(frozen=True)
class History:
    """The entries of one workspace.

    Attributes:
        path: The file; it need not be there yet.
    """

    path: Path

    def append(self, entry: Entry) -> None:
        """Add a line at the end: it is on the disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(asdict(entry), sort_keys=True, ensure_ascii=False) + "\n"
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            torn = size and os.pread(descriptor, 1, size - 1) != b"\n"
            left = (("\n" if torn else "") + line).encode()
            while left:  # a disk that is nearly full takes a part, and raises at the rest
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def entries(self) -> list[Entry]:
        """All whole lines, the oldest first."""
        if not self.path.exists():
            return []
        found = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                content = json.loads(line)
                found.append(Entry(**{**content, "event": Event(content["event"])}))
            except (ValueError, TypeError, KeyError):  # torn
                continue
        return found

    def champions(self, part: str, alias: str) -> list[Entry]:
        """The models that have had an alias and were not rolled back from, the present one last."""
        stack: list[Entry] = []
        for entry in self._of(part, alias):
            if entry.event in CROWNING:
                stack.append(entry)
            elif entry.event is not Event.REFUSED:  # an earlier one again
                digests = [each.digest for each in stack]
                there = entry.digest in digests
                stack = stack[: digests.index(entry.digest) + 1] if there else [entry]
        return stack

    def present(self, part: str) -> dict[str, Entry]:
        """The entries that made the present champions of a part, by alias."""
        aliases = dict.fromkeys(entry.alias for entry in self.entries() if entry.part == part)
        stacks = {alias: self.champions(part, alias) for alias in aliases}
        return {alias: stack[-1] for alias, stack in stacks.items() if stack}

    def rolled_back(self, part: str, alias: str) -> set[str]:
        """The digests of models whose title somebody took: Corgi lets none of them return.

        By a rollback, or by moving the alias in MLflow.
        """
        digests: set[str] = set()
        present = ""
        for entry in self._of(part, alias):
            if present and entry.event in (Event.ROLLED_BACK, Event.ADOPTED):
                digests.add(present)
            if entry.event in (*CROWNING, Event.ROLLED_BACK):
                present = entry.digest
            if entry.event is not Event.REFUSED:
                digests.discard(entry.digest)
        return digests

    def latest(self, part: str, alias: str) -> Entry | None:
        """The last entry of an alias."""
        return next(reversed(self._of(part, alias)), None)

    def latest_move(self, part: str, alias: str) -> Entry | None:
        """The last entry by which an alias moves to its version."""
        moves = [each for each in self._of(part, alias) if each.event is not Event.REFUSED]
        return next(reversed(moves), None)

    def _of(self, part: str, alias: str) -> Sequence[Entry]:
        return [e for e in self.entries() if (e.part, e.alias) == (part, alias)]
