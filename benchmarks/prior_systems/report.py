"""What the benchmark says: two tables, and whether the goals are met."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

GOALS = {"sampling": 10.0, "training": 4.0}  # times the best peer's rate
UNITS = "Captions sampled, noise samples trained on, per second"

Row = dict[str, Any]


def ratio_to_best_peer(rows: Sequence[Row], ours: Row) -> float | None:
    """Our rate over the best peer's in the same case; None where no peer was measured."""
    same = ("task", "dim", "batch", "precision")
    peers = [
        row["per_second"] for row in rows
        if row["system"] != "corgi" and all(row[key] == ours[key] for key in same)
    ]  # fmt: skip
    return ours["per_second"] / max(peers) if peers else None


def speed_table(rows: Sequence[Row]) -> Table:
    """Cases down, systems across; each rate with half its spread over the rounds."""
    systems = list(dict.fromkeys(row["system"] for row in rows))
    table = Table(title=f"{UNITS}; median ± half the spread", box=box.SIMPLE_HEAD)
    for column in ("task", "d", "batch", *systems, "× peer", "goal", "× floor"):
        table.add_column(column, justify="left" if column == "task" else "right", no_wrap=True)
    for task, dim, batch in dict.fromkeys((r["task"], r["dim"], r["batch"]) for r in rows):
        same = [r for r in rows if (r["task"], r["dim"], r["batch"]) == (task, dim, batch)]
        found = {row["system"]: row for row in same}
        ours = found.get("corgi")
        ratio = ratio_to_best_peer(rows, ours) if ours else None
        table.add_row(
            task, str(dim), str(batch),
            *(_rate(found.get(system)) for system in systems),
            "" if ratio is None else f"{ratio:.1f}", _goal(task, ratio),
            f"{1 / ours['floor_fraction']:.1f}" if ours else "",
        )  # fmt: skip
    return table


def _rate(row: Row | None) -> str:
    if row is None:
        return ""
    spread = (row["fastest"] - row["slowest"]) / 2 / row["per_second"]
    return f"{row['per_second']:.3g} ±{spread:.0%}"


def _goal(task: str, ratio: float | None) -> str:
    if ratio is None:
        return ""
    met = ratio >= GOALS[task]
    return f"[{'green' if met else 'red'}]{'≥' if met else '<'} {GOALS[task]:g}[/]"


def loss_table(rows: Iterable[Row]) -> Table:
    """Each system at its best learning rate first, its others below."""
    table = Table(
        title="Held-out ‖z_0 − ẑ_0‖²/d after the same seconds of training", box=box.SIMPLE_HEAD
    )
    for column in ("system", "learning rate", "loss", "± s.e.", "steps", "seconds"):
        table.add_column(column, justify="left" if column == "system" else "right")
    for row in sorted(rows, key=lambda row: row["loss"]):
        table.add_row(
            row["system"], f"{row['learning_rate']:g}", f"{row['loss']:.4f}",
            f"{row['error']:.4f}", str(row["steps"]), f"{row['used']:.0f}",
        )  # fmt: skip
    return table


def loss_verdict(rows: Sequence[Row]) -> str:
    """The best of ours against the best of the peers."""
    ours = min((r["loss"] for r in rows if r["system"] == "corgi"), default=None)
    peers = min(((r["loss"], r["system"]) for r in rows if r["system"] != "corgi"), default=None)
    if ours is None or peers is None:
        return ""
    loss, name = peers
    word = "lower" if ours < loss else "not lower"
    return f"Corgi's held-out loss {ours:.4f} is {word} than the best peer's {loss:.4f} ({name})."


def show(console: Console, speed: Sequence[Row], losses: Sequence[Row]) -> None:
    """Both tables, as far as there are rows."""
    if speed:
        console.print(speed_table(speed))
    if losses:
        console.print(loss_table(losses))
        console.print(loss_verdict(losses))
