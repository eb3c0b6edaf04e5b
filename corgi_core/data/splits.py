"""Train or test: decided by a hash of the group, so that more data never moves what was there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from corgi_core.errors import CorgiError


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

    Splits that the reader found stay, where both are there. Otherwise a group is held out when its
    rank, as a number in [0, 1), is below `test_fraction`; of data that are new as a whole, each
    split gets one group at least. A group that is in a split already stays in that one.
    """

    def __init__(
        self, test_fraction: float, seed: int, *, appended: bool = False, own: bool = False
    ) -> None:
        """Begin with no rows.

        Args:
            test_fraction: The share of groups that is held out.
            seed: Of the groups' ranks.
            appended: Whether the rows are added to others, which are in both splits.
            own: Whether those others have their owner's splits.
        """
        self._fraction, self._seed, self._appended, self._own = test_fraction, seed, appended, own
        self._found: set[str] = set()  # splits that the reader gave
        self._lowest: tuple[str, str] | None = None  # rank and group
        self._highest: tuple[str, str] | None = None

    def note(self, groups: Iterable[str], given: Iterable[str | None]) -> None:
        """Take in some rows' groups and the splits that the reader found for them."""
        self._found.update(split for split in given if split is not None)
        if not self._appended:
            ranked = [(rank_of(group, self._seed), group) for group in set(groups)]
            self._lowest = min([*ranked, *filter(None, [self._lowest])], default=None)
            self._highest = max([*ranked, *filter(None, [self._highest])], default=None)

    @property
    def own(self) -> bool:
        """Whether the splits are the owner's."""
        return self._own or {"train", "test"} <= self._found

    def decide(
        self,
        groups: Sequence[str],
        given: Sequence[str | None],
        present: Sequence[str | None] | None = None,
    ) -> list[str]:
        """The splits of some rows, whose groups may be `present` in a split already.

        Raises CorgiError where all rows together are one group, which cannot be split.
        """
        return [
            there or self._of(group, split)
            for group, split, there in zip(
                groups, given, present or [None] * len(groups), strict=True
            )
        ]

    def _of(self, group: str, given: str | None) -> str:
        if self.own or self._appended:
            if given is not None:
                return given
            if self.own:
                return "train"  # beside a split of the data's own, the rest is for training
        elif self._lowest == self._highest:
            raise CorgiError(
                "one image (or one group of images) cannot be split into training and test",
                "bring at least two different images",
            )
        elif self._highest is not None and group == self._highest[1]:
            return "train"
        elif self._lowest is not None and group == self._lowest[1]:
            return "test"
        return "test" if share_of(group, self._seed) < self._fraction else "train"


def share_of(group: str, seed: int) -> float:
    """The share in [0, 1) from which on `Splits` holds a group out."""
    return _as_share(rank_of(group, seed))


def _as_share(rank: str) -> float:
    return int(rank[:13], 16) / 16**13
