"""Train or test: decided by a hash of the group, so that more data never moves what was there."""

from __future__ import annotations

import hashlib
from typing import Any

from corgi_core.errors import CorgiError


def rank_of(name: str, seed: int) -> str:
    """A pseudo-random rank, the same on any machine: the SHA-256 of "seed|name" in hexadecimal."""
    return hashlib.sha256(f"{seed}|{name}".encode()).hexdigest()


def fill_in_splits(rows: list[dict[str, Any]], test_fraction: float, seed: int) -> None:
    """Give every manifest row its split, in place.

    Splits that the reader found stay, where both are there. Otherwise a group is held out when its
    rank, as a number in [0, 1), is below `test_fraction`; each split gets one group at least.
    """
    if not {"train", "test"} <= {row["split"] for row in rows}:
        ranks = {group: rank_of(group, seed) for group in {row["group"] for row in rows}}
        if len(ranks) < 2:
            raise CorgiError(
                "one image (or one group of images) cannot be split into training and test",
                "bring at least two different images",
            )
        held_out = {group for group, rank in ranks.items() if _as_share(rank) < test_fraction}
        held_out.add(min(ranks, key=ranks.__getitem__))
        held_out.discard(max(ranks, key=ranks.__getitem__))
        for row in rows:
            row["split"] = "test" if row["group"] in held_out else "train"
    for row in rows:
        row["split"] = (
            row["split"] or "train"
        )  # beside a split of the data's own, the rest is for training


def share_of(group: str, seed: int) -> float:
    """The share in [0, 1) from which on `fill_in_splits` holds a group out."""
    return _as_share(rank_of(group, seed))


def _as_share(rank: str) -> float:
    return int(rank[:13], 16) / 16**13
