"""What is measured of every part of Corgi, and how: ours, a plain loop and a matrix product."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from corgi_core.devices import inference, wait_for

ROUNDS = (3, 15)  # of a case: at least, and at most
MATRIX = {False: 8192, True: 256}  # rows of the matrices, by whether it is a small run


@dataclass(frozen=True)
class Sizes:
    """Where to compute, and whether with networks that are just large enough to run."""

    device: torch.device
    small: bool


@dataclass(frozen=True)
class System:
    """One way to do a case's work.

    Attributes:
        name: "corgi", or the peer's.
        run: Does the work once.
        items: How many of the case's units that makes.
    """

    name: str
    run: Callable[[], Any]
    items: int


@dataclass(frozen=True)
class Case:
    """A part of Corgi at one size, and a plain loop that does the same where there is one."""

    name: str
    unit: str
    batch: int
    precision: str  # "bf16" or "fp32"
    ours: System
    peer: System | None = None


@dataclass(frozen=True)
class Row:
    """What was measured; rates are medians over the rounds.

    Attributes:
        case: The case's name, `unit`, `batch` and `precision` likewise.
        per_second: Units a second.
        spread: Half the range over the rounds, as a share of the median.
        tflops: 10¹² floating-point operations of ours a second, two for each multiply-add.
        share: `tflops` as a share of those of a matrix product in the same rounds.
        peer: The plain loop's name, "" without one.
        peer_per_second: Its units a second.
    """

    case: str
    unit: str
    batch: int
    precision: str
    per_second: float
    spread: float
    tflops: float
    share: float
    peer: str
    peer_per_second: float


def precision_of(sizes: Sizes) -> str:
    """In which precision models compute by default."""
    return "bf16" if sizes.device.type == "cuda" else "fp32"


def measured(case: Case, sizes: Sizes, seconds: float) -> Row:
    """Rounds of ours, the peer and a matrix product in turns, for about so many seconds."""
    systems = [system for system in (case.ours, case.peer) if system is not None]
    with FlopCounterMode(display=False) as counter:
        case.ours.run()
    for system in systems:
        system.run()
    product = matrix_product(sizes, case.precision)
    rates: dict[str, list[float]] = {system.name: [] for system in systems}
    machine: list[float] = []
    least, most = ROUNDS
    ends = time.perf_counter() + seconds
    while len(machine) < least or (len(machine) < most and time.perf_counter() < ends):
        for system in systems:
            rates[system.name].append(system.items / timed(system.run, sizes.device))
        machine.append(2 * MATRIX[sizes.small] ** 3 / timed(product, sizes.device))
    ours = statistics.median(rates[case.ours.name])
    flops = counter.get_total_flops() * ours / case.ours.items
    spread = (max(rates[case.ours.name]) - min(rates[case.ours.name])) / 2 / ours
    return Row(
        case.name, case.unit, case.batch, case.precision, ours, spread, flops / 1e12,
        flops / statistics.median(machine), case.peer.name if case.peer else "",
        statistics.median(rates[case.peer.name]) if case.peer else 0.0,
    )  # fmt: skip


def matrix_product(sizes: Sizes, precision: str) -> Callable[[], object]:
    """A product of two large matrices, in bfloat16 or float32."""
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    square = torch.randn(MATRIX[sizes.small], MATRIX[sizes.small], dtype=kind, device=sizes.device)

    def product() -> None:
        with inference(sizes.device, "fp32"):
            square @ square

    product()
    return product


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Seconds until the device has done it."""
    wait_for(device)
    began = time.perf_counter()
    run()
    wait_for(device)
    return time.perf_counter() - began
