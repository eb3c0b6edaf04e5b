"""Train, validation or test: decided by a hash of the group, so that more data move nothing.

Models learn from the training split. Whatever is chosen among trained models is chosen on the
validation split, and what is reported is measured on the test split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from heapq import nlargest, nsmallest

import numpy as np
from numpy.typing import NDArray

from corgi_core.errors import CorgiError

TRAIN, VALIDATION, TEST = SPLITS = ("train", "validation", "test")


def rank_of(name: str, seed: int) -> str:
    """A pseudo-random rank, the same on any machine: the SHA-256 of "seed|name" in hexadecimal."""
    return hashlib.sha256(f"{seed}|{name}".encode()).hexdigest()


def ranks_of(names: NDArray[np.str_], seed: int) -> NDArray[np.bytes_]:
    """`rank_of` every name [n], as the hash's 32 bytes, which have the same order: [n] of S32."""
    digest, prefix = hashlib.sha256, f"{seed}|"
    digests = [digest((prefix + name).encode()).digest() for name in names.tolist()]
    return np.frombuffer(b"".join(digests), dtype="S32")


class Splits:
    """Decides splits in two passes over the data: `note` all rows, then `decide` each.

    Splits that the reader found stay where there is a training split among them and another one.
    If the owner has no test split, the validation split is for testing, also in all that is added
    later, whatever splits that has. If there is then no validation split, it is taken from the
    training split, never from the test split.

    Otherwise, and for what is taken from the training split, `split_by_hash` decides; a split that
    would have no group gets one. A group that is in a split already stays in that one.
    """

    def __init__(
        self,
        test_fraction: float,
        validation_fraction: float,
        seed: int,
        *,
        present: Collection[str] = (),
        owners: Iterable[str] = (),
    ) -> None:
        """Begin with no rows.

        Args:
            test_fraction: The share of groups that is held out for testing.
            validation_fraction: The share of groups that is held out for validation.
            seed: Of the groups' ranks.
            present: The splits that there are among others, to which the rows are added.
            owners: The splits that the reader found for those others, if these stayed.
        """
        owners = frozenset(owners)
        self._fractions, self._seed = (test_fraction, validation_fraction), seed
        self._found = set(owners)  # splits that the reader gave
        self._present = frozenset(present)
        self._appended = {TRAIN, TEST} <= self._present
        self._hashed_before = self._appended and not self._found
        self._owners = bool(owners)
        self._tested_on_validation = VALIDATION in owners and TEST not in owners
        self._every, self._training = _Ends(test_fraction), _Ends(test_fraction)

    def note(self, groups: Iterable[str], given: Iterable[str | None]) -> None:
        """Take in some rows' groups and the splits that the reader found for them."""
        found = set(zip(groups, given, strict=True))
        self._found.update(split for _, split in found if split is not None)
        if not self._present.issuperset(SPLITS):
            ranked = [(rank_of(group, self._seed), group, split) for group, split in found]
            self._every.add({(rank, group) for rank, group, _ in ranked})
            self._training.add(
                {(rank, group) for rank, group, split in ranked if split in (None, TRAIN)}
            )

    @property
    def owners(self) -> list[str]:
        """The splits that the reader found, if they stay; for `Splits` of what is added later.

        Without the test split where the validation split is for testing.
        """
        if not self._own:
            return []
        if self._tests_on_validation:
            return sorted(self._found - {TEST})
        return sorted(self._found | ({TEST} if self._hashed_before else set()))

    @property
    def _own(self) -> bool:
        """Whether the splits that the reader found stay."""
        return self._owners or (TRAIN in self._found and len(self._found) > 1)

    @property
    def _tests_on_validation(self) -> bool:
        """Whether the owner's validation split is for testing: there was no test split at first."""
        if self._tested_on_validation:
            return True
        return not self._hashed_before and VALIDATION in self._found and TEST not in self._found

    def decide(
        self,
        groups: Sequence[str],
        given: Sequence[str | None],
        present: Sequence[str | None] | None = None,
    ) -> list[str]:
        """The splits of some rows, whose groups may be `present` in a split already.

        Raises CorgiError where there are too few groups for all splits.
        """
        assured = self._assured()
        of = self._of_own if self._own else self._of
        return [
            there or of(group, split, assured)
            for group, split, there in zip(
                groups, given, present or [None] * len(groups), strict=True
            )
        ]

    def _of(self, group: str, given: str | None, assured: dict[str, str]) -> str:
        owners = given if self._appended else None
        return owners or assured.get(group) or self._hashed(group)

    def _of_own(self, group: str, given: str | None, assured: dict[str, str]) -> str:
        """The split beside splits of the data's own: what has none is for training."""
        if given == VALIDATION and self._tests_on_validation:
            return TEST
        if given is not None and given != TRAIN:
            return given
        if not self._validates_on_training:
            return TRAIN
        hashed = assured.get(group) or self._hashed(group)
        return VALIDATION if hashed == VALIDATION else TRAIN

    @property
    def _validates_on_training(self) -> bool:
        """Whether a validation split is taken from the owner's training split."""
        return VALIDATION not in self._found or self._tests_on_validation

    def _assured(self) -> dict[str, str]:
        """One group for each split that would have none, if there are as many groups."""
        if self._own and not self._validates_on_training:
            return {}
        ends = self._training if self._own else self._every
        assured: dict[str, str] = {}
        if not self._appended:
            if not self._own and len(ends) < 2:
                raise CorgiError(
                    "one image (or one group of images) cannot be split into training and test",
                    "bring at least two different images; with validation, three",
                )
            assured = {} if self._own else {ends.low[0]: TEST}
            assured |= dict.fromkeys(ends.high[:1], TRAIN)
        if VALIDATION not in self._present:
            others = [group for group in (*ends.untested, *ends.high) if group not in assured]
            assured |= dict.fromkeys(others[:1], VALIDATION)
        return assured

    def _hashed(self, group: str) -> str:
        return split_by_hash(share_of(group, self._seed), *self._fractions)


class _Ends:
    """Those of some groups that a split gets if it would have none, by their ranks."""

    def __init__(self, test_fraction: float) -> None:
        self._fraction = test_fraction
        self._low: list[tuple[str, str]] = []  # rank and group
        self._untested: list[tuple[str, str]] = []
        self._high: list[tuple[str, str]] = []

    def add(self, ranked: set[tuple[str, str]]) -> None:
        """Take in some groups with their ranks."""
        self._low = nsmallest(2, ranked.union(self._low))
        self._high = nlargest(2, ranked.union(self._high))
        untested = {each for each in ranked if _as_share(each[0]) >= self._fraction}
        self._untested = nsmallest(2, untested.union(self._untested))

    @property
    def low(self) -> list[str]:
        """The two groups of the lowest ranks, the lowest first."""
        return [group for _, group in self._low]

    @property
    def high(self) -> list[str]:
        """The two groups of the highest ranks, the highest first."""
        return [group for _, group in self._high]

    @property
    def untested(self) -> list[str]:
        """The two groups of the lowest ranks among those that are not for testing by their hash."""
        return [group for _, group in self._untested]

    def __len__(self) -> int:
        """How many groups there are, up to two."""
        return len(self._low)


def split_by_hash(share: float, test_fraction: float, validation_fraction: float) -> str:
    """The split of a group by its `share_of`: test, then validation, then training.

    So the test split does not depend on the share that is for validation.
    """
    if share < test_fraction:
        return TEST
    return VALIDATION if share < test_fraction + validation_fraction else TRAIN


def share_of(group: str, seed: int) -> float:
    """A group's rank as a number in [0, 1)."""
    return _as_share(rank_of(group, seed))


def _as_share(rank: str) -> float:
    return int(rank[:13], 16) / 16**13
