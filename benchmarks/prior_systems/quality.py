"""A quality that all systems reach, the fastest setting of each that reaches it, and the table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Quality:
    """A Fréchet distance at most, and a recall@5 at least."""

    frechet: float
    recall_at_5: float

    def reached(self, row: Row) -> bool:
        """Whether a row is as good in both."""
        return bool(row["frechet"] <= self.frechet and row["recall_at_5"] >= self.recall_at_5)


def qualities_of_all(rows: Sequence[Row]) -> dict[str, Quality]:
    """The best qualities that every system reaches in one of its rows, by what was put first.

    "frechet" is the lowest distance that all reach, with the highest recall that all reach at it;
    "recall" is the other way round. Both are of rows with "system", "frechet" and "recall_at_5".
    """
    systems = by_system(rows).values()
    frechet = max(min(row["frechet"] for row in own) for own in systems)
    recall = min(max(row["recall_at_5"] for row in own) for own in systems)
    recall_there = min(
        max(row["recall_at_5"] for row in own if row["frechet"] <= frechet) for own in systems
    )
    frechet_there = max(
        min(row["frechet"] for row in own if row["recall_at_5"] >= recall) for own in systems
    )
    return {
        "frechet": Quality(frechet, recall_there),
        "recall": Quality(frechet_there, recall),
    }


def fastest(rows: Iterable[Row], quality: Quality) -> Row | None:
    """Of one system's rows the one that reaches a quality with least work, or None.

    Work is evaluations of the network, twice as many where there is guidance; of equal ones the row
    with the lowest Fréchet distance.
    """
    reaching = [row for row in rows if quality.reached(row)]
    return min(reaching, key=lambda row: (evaluations(row), row["frechet"]), default=None)


def evaluations(row: Row) -> int:
    """Of the network, for a caption."""
    return int(row["steps"]) * (1 if row["guidance"] == 1 else 2)


def by_system(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows of each system."""
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row["system"], []).append(row)
    return grouped


def table_of(
    reports: Sequence[Row], qualities: Mapping[str, Quality], batches: Sequence[int]
) -> str:
    """In Markdown: what each system reaches each quality with, on the test split, and how fast.

    Args:
        reports: A row a quality and system: scores of the test split, and captions a second by
            batch in "per_second"; "steps" is None where it does not reach the quality.
        qualities: By name, "ours" may be among them.
        batches: Numbers of captions at once.
    """
    head = ["quality (validation)", "system", "steps", "guidance", "recall@5", "Fréchet"]
    head += [f"captions/s at {batch}" for batch in batches] + [f"ours, times at {batches[-1]}"]
    lines = [head, ["---", "---", *["--:"] * (len(head) - 2)]]
    for name, quality in qualities.items():
        rows = [row for row in reports if row["quality"] == name]
        ours = next((row for row in rows if row["system"] == "corgi"), None)
        wanted = f"≤ {quality.frechet:.3f}, ≥ {quality.recall_at_5:.3f}"
        lines += [[wanted, *_cells(row, ours, batches)] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cells(row: Row, ours: Row | None, batches: Sequence[int]) -> list[str]:
    scores = [
        f"{row[name]:.3f} ({row[f'{name}_ci_low']:.3f}–{row[f'{name}_ci_high']:.3f})"
        for name in ("recall_at_5", "frechet")
    ]
    setting = [str(row["steps"]), f"{row['guidance']:g}"]
    if not row["reached"]:
        return [row["system"], *setting, *scores, *["not reached"] * len(batches), ""]
    rates = [row["per_second"][batch] for batch in batches]
    times = f"{ours['per_second'][batches[-1]] / rates[-1]:.1f}" if ours else ""
    return [row["system"], *setting, *scores, *(f"{rate:.3g}" for rate in rates), times]
