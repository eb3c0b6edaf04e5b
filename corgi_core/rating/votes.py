"""Votes in an SQLite file: each counted once, none lost.

A vote is on the disk before it is acknowledged (write-ahead log, synchronous = FULL). A browser
that got no answer sends its vote again under the same key, and the key is unique: the second one is
recognised and changes nothing. So is a second vote on what a rater has answered already.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from corgi_core.errors import CorgiError
from corgi_core.rating.survey import Slot, Survey

VOTES_FILE = "votes.sqlite"
ASPECTS = ("alignment", "fidelity")
BUSY = 30.0  # seconds to wait for other writers
NAME = re.compile(r"[A-Za-z0-9_-]{8,64}")  # of a rater, and of a vote's key
SAME = ("suite", "pictures", "kind", "models")  # of surveys whose votes can be counted together
LONGEST = 86_400.0  # seconds; a page may have been left open for a day

_TABLES = """
CREATE TABLE IF NOT EXISTS survey (only INTEGER PRIMARY KEY CHECK (only = 1), content TEXT) STRICT;
CREATE TABLE IF NOT EXISTS votes (
  key TEXT PRIMARY KEY, rater TEXT NOT NULL, slot INTEGER NOT NULL, content TEXT NOT NULL,
  at TEXT NOT NULL, UNIQUE (rater, slot)
) STRICT;
"""


class RefusedVoteError(CorgiError):
    """A vote that is not counted; those that were counted before stay."""


@dataclass(frozen=True)
class Vote:
    """One rater's answer to one question.

    Attributes:
        rater: Who.
        slot: Its position in the rater's order, from 0.
        prompt: The prompt's number.
        seed: The pictures' seed.
        models: By position on the page.
        repeats: The slot of the first vote on the same question; None for a first vote.
        alignment: The ranks by position, 1 being best: what shows the prompt better.
        fidelity: The ranks by position: what looks better made.
        seconds: From the pictures' appearance to the vote.
    """

    rater: str
    slot: int
    prompt: int
    seed: int
    models: tuple[str, ...]
    repeats: int | None
    alignment: tuple[int, ...]
    fidelity: tuple[int, ...]
    seconds: float


@dataclass(frozen=True)
class VoteStore:
    """The votes of one survey; any number of threads and processes may use the file at once."""

    path: Path

    @classmethod
    def create(cls, path: Path, survey: Survey) -> VoteStore:
        """The store of a survey, made where there is none.

        A stored survey stays if its questions are the same, or if it has votes, so that several
        pages can serve one file.

        Raises:
            CorgiError: If there are votes of another survey.
        """
        store = cls(path)
        with store._transaction(made=True) as database:
            row = database.execute("SELECT content FROM survey").fetchone()
            voted = database.execute("SELECT 1 FROM votes LIMIT 1").fetchone()
            if row:
                found = Survey.from_json(json.loads(row[0]))
                if found.questions == survey.questions and _alike(found, survey):
                    return store
                if voted and not _alike(found, survey):
                    asked = f"{found.kind} on {', '.join(found.models)}"
                    others = (
                        ", of pictures that were made otherwise"
                        if found.models == survey.models
                        else ""
                    )
                    raise CorgiError(
                        f"{path} has votes of another survey, by {asked}{others}",
                        "name another file with --votes, or ask for the same models and kind",
                    )
                if voted:
                    return store
            content = json.dumps(survey.to_json())
            database.execute("INSERT OR REPLACE INTO survey VALUES (1, ?)", (content,))
        return store

    @property
    def survey(self) -> Survey:
        """The survey that the votes answer; CorgiError where the file holds none."""
        with self._transaction() as database:
            row = database.execute("SELECT content FROM survey").fetchone()
        return Survey.from_json(json.loads(row[0]))

    def answered(self, rater: str) -> set[int]:
        """The slots that a rater has voted on."""
        with self._transaction() as database:
            rows = database.execute("SELECT slot FROM votes WHERE rater = ?", (rater,))
            return {slot for (slot,) in rows}

    def record(
        self, key: str, slot: Slot, rater: str, answers: dict[str, Any], survey: str
    ) -> bool:
        """Count a vote, once.

        Args:
            key: Of this vote: a vote that is sent again has the same.
            slot: The question, as the rater is asked it.
            rater: Who votes.
            answers: "alignment" and "fidelity", the ranks by position, and "seconds".
            survey: The digest of the survey that asked it.

        Returns:
            True; False where this very vote has been counted before.

        Raises:
            RefusedVoteError: If the answers are no answers, the rater has answered already, or the
                store's survey is another one.
        """
        _check_name("rater", rater)
        _check_name("key", key)
        content = json.dumps(
            {
                "prompt": slot.question.prompt, "seed": slot.question.seed, "models": slot.models,
                "repeats": slot.repeats, "seconds": _seconds(answers.get("seconds")),
                **{aspect: _ranks(answers.get(aspect), aspect, slot) for aspect in ASPECTS},
            }
        )  # fmt: skip
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with self._transaction() as database:
            stored = database.execute("SELECT content FROM survey").fetchone()
            if Survey.from_json(json.loads(stored[0])).digest != survey:
                raise RefusedVoteError(
                    "the file of the votes has another survey since", "start `corgi rate` again"
                )
            found = database.execute(
                "SELECT key, rater, slot FROM votes WHERE key = ? OR (rater = ? AND slot = ?)",
                (key, rater, slot.number),
            ).fetchone()
            if found == (key, rater, slot.number):
                return False
            if found:
                raise RefusedVoteError(
                    "this question was answered before, and that vote counts",
                    "load the page again to go on with the next question",
                )
            database.execute(
                "INSERT INTO votes VALUES (?, ?, ?, ?, ?)", (key, rater, slot.number, content, now)
            )
        return True

    def votes(self) -> list[Vote]:
        """All votes, by rater and in each rater's order."""
        with self._transaction() as database:
            rows = database.execute("SELECT rater, slot, content FROM votes ORDER BY rater, slot")
            return [_vote(*row) for row in rows]

    @contextmanager
    def _transaction(self, made: bool = False) -> Iterator[sqlite3.Connection]:
        """A transaction that sees no half of another and is on the disk when the block ends."""
        if not (made or self.path.is_file()):
            raise CorgiError(f"there is no {self.path}", "have people vote: `corgi rate FOLDER`")
        try:
            with closing(sqlite3.connect(self.path, timeout=BUSY, isolation_level=None)) as base:
                if made:
                    base.execute("PRAGMA journal_mode = WAL")
                    base.executescript(_TABLES)
                base.execute("PRAGMA synchronous = FULL")
                base.execute("BEGIN IMMEDIATE")
                try:
                    yield base
                except BaseException:
                    base.execute("ROLLBACK")
                    raise
                base.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and "no such table" not in str(error):
                raise
            raise CorgiError(
                f"{self.path} is no file of votes ({error})", "name another one with --votes"
            ) from error


def _alike(one: Survey, other: Survey) -> bool:
    """Whether the votes of two surveys can be counted together."""
    return all(getattr(one, key) == getattr(other, key) for key in SAME)


def _vote(rater: str, slot: int, content: str) -> Vote:
    saved = json.loads(content)
    for name in ("models", *ASPECTS):
        saved[name] = tuple(saved[name])
    return Vote(rater=rater, slot=slot, **saved)


def _check_name(what: str, name: object) -> None:
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        raise RefusedVoteError(
            f"the {what} is none that this page gives", "load the page again, and vote there"
        )


def _ranks(given: object, aspect: str, slot: Slot) -> Sequence[int]:
    """The ranks by position; of a pair 1 and 2, or 1 twice; else a ranking without ties."""
    size = len(slot.models)
    allowed = [[1, 1], [1, 2], [2, 1]] if size == 2 else None
    if isinstance(given, list) and all(type(rank) is int for rank in given):
        if allowed and given in allowed:
            return given
        if allowed is None and sorted(given) == list(range(1, size + 1)):
            return given
    raise RefusedVoteError(
        f"{given!r} does not rank {size} pictures by {aspect}",
        "load the page again, and vote there",
    )


def _seconds(given: object) -> float:
    if isinstance(given, int | float) and 0 <= given <= LONGEST:
        return float(given)
    return LONGEST if isinstance(given, int | float) and given > LONGEST else 0.0
