"""How far a request is: what is before it in the queue, and what of it is made."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.testclient import TestClient

from corgi_core.serving.app import Api
from corgi_core.serving.engine import Engine
from corgi_core.serving.metrics import ServingMetrics
from corgi_core.serving.queue import WorkQueue
from tests.helpers.fake_served import FakeModel


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
def client(model: FakeModel) -> Iterator[TestClient]:
    engine = Engine(model, batch_size=2)
    yield TestClient(Api(engine, ServingMetrics()).app())
    model.gate.set()
    engine.stop()


def test_what_is_ahead_are_the_items_of_others_that_wait() -> None:
    queue: WorkQueue[int, int] = WorkQueue(capacity=100, batch_size=4)
    first, second, third = (queue.submit(range(n), n) for n in (6, 3, 5))
    assert [queue.ahead_of(job) for job in (first, second, third)] == [0, 6, 9]
    batch = queue.take()  # four of the first, which goes to the end
    assert [queue.ahead_of(job) for job in (second, third, first)] == [0, 3, 8]
    queue.finish(batch or [], range(4))
    assert (first.made, second.made) == (4, 0)
    queue.cancel(second)
    assert [queue.ahead_of(job) for job in (second, third, first)] == [0, 0, 5]


def wait_for(client: TestClient, id: str, expected: dict[str, Any] | int) -> None:
    def found(of: Callable[..., Any]) -> Any:
        answer = of(f"/v1/images/{id}")
        return answer.json() if answer.status_code == 200 else answer.status_code

    until = time.monotonic() + 20
    while (said := found(client.get)) != expected:
        assert time.monotonic() < until, said
        time.sleep(0.01)


def test_a_client_can_ask_how_far_its_request_is(client: TestClient, model: FakeModel) -> None:
    model.gate.clear()

    def make(id: str, num_images: int, num_steps: int) -> int:
        order = {"prompts": ["a"], "num_images": num_images, "num_steps": num_steps, "id": id}
        return client.post("/v1/images", json=order).status_code

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(make, "one", 3, 1)
        wait_for(client, "one", {"ahead": 0, "made": 0, "total": 3})
        other = pool.submit(make, "other", 2, 2)
        wait_for(client, "other", {"ahead": 1, "made": 0, "total": 2})
        model.gate.set()
        assert one.result() == other.result() == 200
    wait_for(client, "one", 404)
