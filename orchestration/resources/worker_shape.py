"""What each worker of a training reserves: as many CPUs, and as much of a GPU, as are free.

Ray does not export what is free on each node: that is taken from `ray._private.state` here alone,
checked against Ray 2.60.0 (pyproject.toml keeps below 3).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from corgi_core.errors import CorgiError

SETTLING = 5.0  # seconds in which what ended just now gives its CPUs and GPUs back
POLL = 0.2  # seconds between two looks at what is free
ROUNDING = 1e-6  # of shares of a GPU: 0.6 / 0.2 is 2.9999999999999996

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerShape:
    """How many workers, and what Ray reserves for each of them."""

    workers: int
    cpus: int
    gpus: float  # of each worker: 1, a share of one, or 0

    def __str__(self) -> str:
        gpus = f" and {self.gpus:g} GPU" if self.gpus else ""
        return f"{self.workers} training workers with {self.cpus} CPUs{gpus} each"


@dataclass(frozen=True)
class Node:
    """What a node of the cluster has, and what of it is free: {"CPU": 8.0, "GPU": 1.0}."""

    total: Mapping[str, float]
    free: Mapping[str, float]


def worker_shape(
    workers: int, nodes: Sequence[Mapping[str, float]], gpus: float = 1.0
) -> WorkerShape:
    """Share the nodes' CPUs among the workers; every worker gets `gpus` if there are any at all.

    A worker's reserved CPUs are its threads, so the workers never fight over them. Ray would wait
    in silence for more workers than fit; here that is a CorgiError.

    Args:
        workers: How many.
        nodes: Each node's resources, {"CPU": 8.0, "GPU": 1.0}.
        gpus: What a worker needs of a GPU, in (0, 1].
    """
    if not any(node.get("GPU", 0) >= gpus for node in nodes):
        gpus = 0
    if shape := _largest_that_fits(workers, nodes, gpus):
        return shape
    kind = "GPU" if gpus else "CPU"
    there, most = _sum(kind, nodes), sum(_workers_on(node, 1, gpus) for node in nodes)
    each = f", each with {gpus:g} of a GPU" if 0 < gpus < 1 else ""
    raise CorgiError(
        f"{workers} training workers were asked for{each}, but there are {there:g} {kind}s",
        f"set CORGI_WORKERS to {most} or fewer, or name a larger cluster in CORGI_RAY_ADDRESS",
    )


def shape_when_free(
    workers: int, gpus: float, nodes: Callable[[], Sequence[Node]], patience: float
) -> WorkerShape:
    """The workers' shape (`worker_shape`) as soon as they fit into what is free.

    For a few seconds all CPUs are waited for, since what has just ended gives its own back; then
    the workers get what is free.

    Args:
        workers: How many.
        gpus: What a worker needs of a GPU, in (0, 1].
        nodes: Looks at the cluster.
        patience: Seconds to wait until the workers fit.

    Raises:
        CorgiError: they fit in no case, or not within `patience`.
    """
    began, announced = time.monotonic(), False
    while True:
        present = nodes()
        whole = worker_shape(workers, [node.total for node in present], gpus)
        shape = _largest_that_fits(workers, [node.free for node in present], whole.gpus)
        waited = time.monotonic() - began
        if shape and (shape == whole or waited >= SETTLING):
            return shape
        if not shape and waited >= patience:
            raise _nothing_free(whole, present, patience)
        if not shape and waited >= SETTLING and not announced:
            log.warning("the training waits %g s at most for CPUs and GPUs to be free", patience)
            announced = True
        time.sleep(POLL)


def _nothing_free(shape: WorkerShape, nodes: Sequence[Node], patience: float) -> CorgiError:
    free, total = [node.free for node in nodes], [node.total for node in nodes]
    kinds = ("GPU", "CPU") if shape.gpus else ("CPU",)
    there = [f"{_sum(kind, free):g} of {_sum(kind, total):g} {kind}s" for kind in kinds]
    each = f"{shape.gpus:g} GPU and 1 CPU" if shape.gpus else "1 CPU"
    return CorgiError(
        f"{shape.workers} training workers of at least {each} each do not fit into what is free "
        f"after {patience:g} s: {' and '.join(there)}",
        "end other work on the cluster (`ray status` shows what is used), set CORGI_WORKERS lower, "
        "or wait longer (ray.patience)",
    )


def _largest_that_fits(
    workers: int, nodes: Sequence[Mapping[str, float]], gpus: float
) -> WorkerShape | None:
    """The shape with the most CPUs a worker; None where the nodes have no room for the workers."""
    most = int(max((node.get("CPU", 0) for node in nodes), default=0))
    for cpus in range(most, 0, -1):
        if sum(_workers_on(node, cpus, gpus) for node in nodes) >= workers:
            return WorkerShape(workers, cpus, gpus)
    return None


def _workers_on(node: Mapping[str, float], cpus: int, gpus: float) -> int:
    """How many workers fit on a node; a worker's share of a GPU lies on one GPU."""
    room = int(node.get("CPU", 0) // cpus)
    if not gpus:
        return room
    whole, rest = divmod(node.get("GPU", 0), 1)
    return min(room, int(whole) * int(1 / gpus + ROUNDING) + int(rest / gpus + ROUNDING))


def _sum(kind: str, nodes: Sequence[Mapping[str, float]]) -> float:
    return sum(node.get(kind, 0) for node in nodes)


def nodes_of_cluster() -> list[Node]:
    """The living nodes of the cluster that this process has joined."""
    import ray
    from ray._private.state import available_resources_per_node

    free = available_resources_per_node()
    alive = [node for node in ray.nodes() if node["Alive"]]
    return [Node(node["Resources"], free.get(node["NodeID"], {})) for node in alive]
