"""How many CPUs and how much of a GPU each worker gets, and which workers fit nowhere."""

from __future__ import annotations

import pytest

from corgi_core.errors import CorgiError
from orchestration.resources.worker_shape import WorkerShape, worker_shape


def test_workers_share_the_cpus_of_every_node() -> None:
    assert worker_shape(1, [{"CPU": 8}]) == WorkerShape(1, 8, gpus=0)
    assert worker_shape(3, [{"CPU": 8}]) == WorkerShape(3, 2, gpus=0)
    assert worker_shape(2, [{"CPU": 8}, {"CPU": 4}]) == WorkerShape(2, 4, gpus=0)
    assert worker_shape(3, [{"CPU": 16, "GPU": 2}, {"CPU": 8, "GPU": 1}, {"CPU": 4}]) == (
        WorkerShape(3, 8, gpus=1)
    )


def test_workers_share_a_gpu_only_whole_workers_to_a_gpu() -> None:
    two = [{"CPU": 8, "GPU": 2}]
    assert worker_shape(4, two, gpus=0.5) == WorkerShape(4, 2, gpus=0.5)
    assert worker_shape(4, two, gpus=0.4) == WorkerShape(4, 2, gpus=0.4)
    with pytest.raises(CorgiError, match=r"5 .* each with 0.4 of a GPU, but there are 2 GPUs.* 4 "):
        worker_shape(5, two, gpus=0.4)


@pytest.mark.parametrize(
    ("workers", "node", "there"),
    [(3, {"CPU": 2}, "2 CPUs"), (2, {"CPU": 16, "GPU": 1}, "1 GPUs"), (1, {}, "0 CPUs")],
)
def test_too_many_workers_are_refused(workers: int, node: dict[str, float], there: str) -> None:
    with pytest.raises(CorgiError, match=f"{workers} training workers .* there are {there}"):
        worker_shape(workers, [node])
