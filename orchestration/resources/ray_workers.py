"""Ray actors that share items among them. Imports no Dagster, so that workers need not either.

Each actor loads once what its items need, on the device that Ray reserves for it. An actor that
dies is replaced, and its item is done again by another.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from corgi_core.errors import CorgiError
from orchestration.resources.deaths import death_in, ended_with_node
from orchestration.resources.interrupts import interrupts_for_ray

Item = TypeVar("Item")
Result = TypeVar("Result")
Opened = Callable[[str, int], Callable[[Item], Result]]
"""opened(device, threads) loads what is needed, and returns the function of an item."""

MAX_DEATHS = 3  # of workers at one item, or one after the other while they start
WINDOW = 2  # results a worker that wait for one before them


@dataclass(frozen=True)
class Share:
    """How many workers, and what Ray reserves for each of them."""

    workers: int
    cpus: int
    gpus: float

    def __str__(self) -> str:
        return f"{self.cpus} CPUs" + (f" and {self.gpus:g} GPUs" if self.gpus else "")


def share_of(nodes: Sequence[Mapping[str, float]], items: int, cpus: int, gpus: float) -> Share:
    """Divide the nodes among the workers for so many items.

    Where a node has GPUs, workers run on such nodes alone, and share the CPUs there.

    Args:
        nodes: Each node's resources, {"CPU": 8.0, "GPU": 1.0}.
        items: No more workers than these.
        cpus: A worker's on nodes without GPUs, and the fewest on others.
        gpus: A worker's, possibly a fraction; 0 for work that no GPU makes faster.

    Raises:
        CorgiError: no node has room for one worker.
    """
    with_gpus = [node for node in nodes if gpus and node.get("GPU", 0) > 0]
    room = [
        math.floor(min(node.get("CPU", 0) / cpus, node["GPU"] / gpus if with_gpus else math.inf))
        for node in with_gpus or nodes
    ]
    if not sum(room):
        share = Share(1, cpus, gpus if with_gpus else 0)
        raise CorgiError(
            f"a worker is to have {share}, and no machine of the Ray cluster has as many",
            "lower ray.cpus_per_worker or ray.gpus_per_worker, or name a larger cluster in "
            "CORGI_RAY_ADDRESS",
        )
    if with_gpus:
        cpus = min(
            math.floor(node["CPU"] / workers)
            for node, workers in zip(with_gpus, room, strict=True)
            if workers
        )
    return Share(min(items, sum(room)), cpus, gpus if with_gpus else 0)


def gpu_share(nodes: Sequence[Mapping[str, float]]) -> float:
    """The part of a GPU that each CPU has where all CPUs share all GPUs, at most one.

    Ray hides the GPUs from a task that reserves none, and counts in ten-thousandths of one.
    """
    cpus, gpus = (sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
    return min(1.0, math.floor(10_000 * gpus / cpus) / 10_000) if cpus else 0.0


class Worker:
    """What an actor runs."""

    def __init__(self, opened: list[Any], cpus: int, gpus: float) -> None:
        self._reference, self._cpus, self._gpus = opened, cpus, gpus
        self._function: Callable[[Any], Any] | None = None

    def start(self) -> None:
        """Return once the process runs."""

    def apply(self, item: Any) -> Any:
        """The function of an item; the first call loads what it needs, and may fail by that."""
        import ray

        if self._function is None:
            (reference,) = self._reference  # in a list, as Ray would read it before any call
            opened = ray.get(reference)
            self._function = opened("cuda" if self._gpus else "cpu", self._cpus)
        return self._function(item)


def share_among_workers(
    opened: Opened[Item, Result],
    items: Sequence[Item],
    share: Share,
    name: Callable[[Item], str],
    patience: float,
    in_order: bool = True,
) -> Generator[Result]:
    """The function's results; one item a worker is under way.

    No more than two results a worker are in memory: where one is not taken, no further item is
    begun.

    Args:
        opened: Sent to every worker once.
        items: Sent one at a time.
        share: The workers.
        name: What messages call an item.
        patience: Seconds until a worker has started, where none is at work.
        in_order: Whether the results come in the items' order, or each as soon as it is there.

    Raises:
        CorgiError: workers died or lacked memory again and again at one item, or none could be
            started.
        And what the function raises. Then, and where the iterator is closed, the workers end.
    """
    pool = _Pool(opened, items, share, name, patience, in_order)
    try:
        yield from pool.run()
    finally:
        pool.end()


class _Pool:
    def __init__(
        self,
        opened: Any,
        items: Sequence[Any],
        share: Share,
        name: Any,
        patience: float,
        in_order: bool,
    ) -> None:
        self.items, self.share, self.name, self.patience = items, share, name, patience
        self.in_order, self.window = in_order, WINDOW * share.workers
        self.waiting = deque(range(len(items)))
        self.deaths: Counter[int | None] = Counter()
        self.busy: dict[Any, tuple[Any, int | None]] = {}  # call → worker and item; None: starting
        self.idle: list[Any] = []  # workers
        self.results: dict[int, Any] = {}  # of items that are not returned yet
        self.returned = 0
        with interrupts_for_ray():
            import ray

            self.opened = [ray.put(opened)]
            actor = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus)(Worker)
            self.new_worker = lambda: actor.remote(self.opened, share.cpus, share.gpus)
            for _ in range(share.workers):
                self.start_worker()

    def start_worker(self) -> None:
        worker: Any = self.new_worker()
        self.busy[worker.start.remote()] = worker, None

    def run(self) -> Iterator[Any]:
        import ray

        while self.waiting or self.at_work():
            with interrupts_for_ray():
                timeout = None if self.at_work() else self.patience
                done, _ = ray.wait(list(self.busy), num_returns=1, timeout=timeout)
                if not done:
                    raise self.not_started()
                worker, item = self.busy.pop(done[0])
                try:
                    result = ray.get(done[0])
                except ray.exceptions.RayError as failure:
                    ray.kill(worker)
                    self.replace(item, failure)
                else:
                    self.deaths[None] = 0
                    self.idle.append(worker)
                    if item is not None:
                        self.results[item] = result
                self.hand_out()
            while self.results and (not self.in_order or self.returned in self.results):
                next_one = self.returned if self.in_order else next(iter(self.results))
                self.returned += 1
                yield self.results.pop(next_one)
                with interrupts_for_ray():
                    self.hand_out()

    def at_work(self) -> bool:
        """Whether a worker has an item."""
        return any(item is not None for _, item in self.busy.values())

    def hand_out(self) -> None:
        """Give idle workers their next items; without one a worker ends, and its device is free."""
        import ray

        while self.idle:
            if not self.waiting:
                ray.kill(self.idle.pop())
                continue
            if self.in_order and self.waiting[0] >= self.returned + self.window:
                return
            worker, item = self.idle.pop(), self.waiting.popleft()
            self.busy[worker.apply.remote(self.items[item])] = worker, item

    def replace(self, item: int | None, failure: Exception) -> None:
        """Have the item of a dead worker done again; raise what the function has raised."""
        from ray.exceptions import RayTaskError

        error = failure.cause if isinstance(failure, RayTaskError) else failure
        death = death_in(error)
        if not death:
            raise error from failure
        if item is not None:
            self.waiting.appendleft(item)
        if item is not None or not ended_with_node(failure):
            self.deaths[item] += 1
        if self.deaths[item] >= MAX_DEATHS:
            at = "while they started" if item is None else f"at {self.name(self.items[item])}"
            raise CorgiError(
                f"{self.deaths[item]} workers died {at} ({death})",
                "if they lacked memory, raise ray.cpus_per_worker or ray.gpus_per_worker, so that "
                "fewer run on a machine; what is finished stays, and the next run goes on",
            )
        self.start_worker()

    def not_started(self) -> CorgiError:
        """Says what is missing."""
        import ray

        free, there = ray.available_resources(), ray.cluster_resources()
        counts = (f"{free.get(k, 0):g} of {there.get(k, 0):g} {k}s" for k in ("CPU", "GPU"))
        return CorgiError(
            f"no worker with {self.share} has started in {self.patience:g} seconds: "
            f"{' and '.join(counts)} of the Ray cluster are free",
            "wait for the cluster's other work to end, or name another one in CORGI_RAY_ADDRESS",
        )

    def end(self) -> None:
        """Kill the workers that are left."""
        import ray

        with interrupts_for_ray():
            for worker in [*self.idle, *(worker for worker, _ in self.busy.values())]:
                ray.kill(worker)
