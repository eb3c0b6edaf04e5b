"""The engine: who waits, who cancels, which model answers, and how it ends."""

from __future__ import annotations

import base64
import http.client
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest
import uvicorn
from PIL import Image
from starlette.testclient import TestClient

from corgi_core.errors import CorgiError
from corgi_core.generation import Request
from corgi_core.serving import server
from corgi_core.serving.app import Api
from corgi_core.serving.engine import Engine
from corgi_core.serving.metrics import ServingMetrics
from corgi_core.serving.pictures import OrderedPicture
from corgi_core.serving.reloading import ModelWatch
from corgi_core.serving.server import listening_on
from tests.helpers.fake_served import FakeModel
from tests.helpers.serving import ask, serving_app

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
def engine(model: FakeModel) -> Iterator[Engine]:
    engine = Engine(model, capacity=32)
    yield engine
    model.gate.set()
    engine.stop()


def ordered(count: int = 1) -> list[OrderedPicture]:
    request = Request.of_files(["a"], [], [], num_images=count)
    return [OrderedPicture(request, number) for number in range(count)]


def order(**more: Any) -> bytes:
    return json.dumps({"prompts": ["a"], "seed": 0, **more}).encode()


def wait_until(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_hundreds_of_requests_half_of_whose_clients_leave_over_http(
    engine: Engine, model: FakeModel
) -> None:
    metrics = ServingMetrics()

    def client(number: int) -> list[int]:
        statuses = []
        for i in range(25):
            if (number + i) % 2:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
                connection.request("POST", "/v1/images", order(num_images=2), JSON)
                connection.close()
                continue
            statuses.append(ask(port, "/v1/images", "POST", JSON, order())[0])
        return statuses

    with serving_app(Api(engine, metrics).app()) as port:
        with ThreadPoolExecutor(16) as pool:
            statuses = [status for each in pool.map(client, range(16)) for status in each]
        assert len(statuses) == 200
        assert set(statuses) <= {200, 429}
        assert statuses.count(200) > 20
        wait_until(lambda: engine.queue.size == 0)
        assert ask(port, "/v1/images", "POST", JSON, order())[0] == 200


def test_a_client_that_leaves_or_deletes_frees_its_slot_while_it_is_sampled(
    engine: Engine, model: FakeModel
) -> None:
    model.gate.clear()
    with serving_app(Api(engine, ServingMetrics()).app()) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("POST", "/v1/images", order(num_images=30), JSON)
        wait_until(lambda: engine.queue.size == 30)
        status, text = ask(port, "/v1/images", "POST", JSON, order(num_images=3))
        assert status == 429
        assert "30 of 32 pictures are waiting" in text
        connection.close()
        wait_until(lambda: engine.queue.size == 0)

        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(ask, port, "/v1/images", "POST", JSON, order(id="mine"))
            wait_until(lambda: engine.queue.size == 1)
            assert ask(port, "/v1/images", "POST", JSON, order(id="mine"))[0] == 409
            assert ask(port, "/v1/images/mine", "DELETE")[0] == 204
            assert engine.queue.size == 0
            status, text = waiting.result(20)
        assert status == 409
        assert "was cancelled" in text
        assert ask(port, "/v1/images/mine", "DELETE")[0] == 404
        model.gate.set()
        assert ask(port, "/v1/images", "POST", JSON, order())[0] == 200


def test_a_full_queue_says_when_to_ask_again(engine: Engine, model: FakeModel) -> None:
    model.gate.clear()
    job = engine.submit(model, ordered(32))
    client = TestClient(Api(engine, ServingMetrics()).app())
    answer = client.post("/v1/images", content=order(), headers=JSON)
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) >= 1
    assert client.get("/readyz").status_code == 503
    engine.queue.cancel(job)
    assert client.get("/readyz").status_code == 200


def test_images_are_decoded_only_where_there_is_room_and_never_huge_ones(
    engine: Engine, model: FakeModel, monkeypatch
) -> None:
    content = io.BytesIO()
    Image.new("1", (4097, 4097)).save(content, format="PNG")  # 2 kB
    images = [base64.b64encode(content.getvalue()).decode()]
    client = TestClient(Api(engine, ServingMetrics()).app())
    huge = client.post("/v1/images", json={"images": images})
    assert huge.status_code == 422
    assert "too many pixels" in huge.json()["detail"]
    monkeypatch.setattr("corgi_core.serving.app.generation_of", None)
    model.gate.clear()
    engine.submit(model, ordered(32))
    assert client.post("/v1/images", json={"images": images}).status_code == 429


def test_bodies_of_all_requests_together_have_an_end(
    engine: Engine, model: FakeModel, monkeypatch
) -> None:
    monkeypatch.setattr("corgi_core.serving.limits.LARGEST_TOTAL", int(1.5 * len(order())))
    client = TestClient(Api(engine, ServingMetrics()).app())
    for _ in range(3):
        assert client.post("/v1/images", content=order(), headers=JSON).status_code == 200
    model.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.post, "/v1/images", content=order(), headers=JSON)
        wait_until(lambda: engine.queue.size == 1)
        refused = client.post("/v1/images", content=order(), headers=JSON)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
        assert "Retry-After" in refused.json()["remedy"]
        model.gate.set()
        assert waiting.result(20).status_code == 200


def test_a_way_counts_as_the_images_that_it_decodes(engine: Engine, model: FakeModel) -> None:
    model.gate.clear()
    client = TestClient(Api(engine, ServingMetrics()).app())
    with ThreadPoolExecutor(1) as pool:
        sent = {"prompt": "a", "prior_steps": 20}
        waiting = pool.submit(client.post, "/v1/trajectory", json=sent)
        wait_until(lambda: engine.queue.size == 21)
        assert client.post("/v1/trajectory", json=sent).status_code == 429
        model.gate.set()
        assert waiting.result(20).status_code == 200


def test_what_waits_is_sampled_together(engine: Engine, model: FakeModel) -> None:
    model.gate.clear()
    jobs = [engine.submit(model, ordered()) for _ in range(20)]
    model.gate.set()
    for job in jobs:
        job.result.result(20)
    assert sum(model.batches) == 20
    assert max(model.batches) == 16


def test_a_defect_is_a_500_and_the_next_request_is_answered(
    engine: Engine, model: FakeModel, monkeypatch, caplog
) -> None:
    client = TestClient(Api(engine, ServingMetrics()).app(), raise_server_exceptions=False)
    with monkeypatch.context() as patch:
        patch.setattr(model, "sample", lambda _: 1 / 0)
        answer = client.post("/v1/images", content=order(), headers=JSON)
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "ZeroDivisionError" in caplog.text
    assert client.post("/v1/images", content=order(), headers=JSON).status_code == 200
    assert engine.is_alive


def test_promoted_models_answer_new_requests_and_old_ones_finish(
    engine: Engine, model: FakeModel, tmp_path: Path
) -> None:
    pointer, newest = tmp_path / "models.json", {"model": model}
    pointer.write_text("1")
    watch = ModelWatch(pointer, lambda: newest["model"])
    metrics = ServingMetrics()
    client = TestClient(Api(engine, metrics, watch).app())
    outcomes: list[str] = []
    watch.follow(engine, outcomes.append, interval=0.01)

    model.gate.clear()
    begun = engine.submit(model, ordered(20))
    newest["model"] = FakeModel("second")
    pointer.write_text("2")
    wait_until(lambda: outcomes == ["loaded"])
    model.gate.set()
    answer = client.post("/v1/images", content=order(), headers=JSON).json()
    assert answer["model"]["name"] == "second"
    assert len(begun.result.result(20)) == 20
    assert sum(model.batches) == 20
    watch.stop()


def test_models_that_cannot_be_loaded_leave_the_old_ones_and_are_reported(
    engine: Engine, model: FakeModel, tmp_path: Path
) -> None:
    pointer, error = tmp_path / "models.json", {"of": None}

    def load() -> FakeModel:
        if error["of"]:
            raise error["of"]
        return model

    watch = ModelWatch(pointer, load)
    client = TestClient(Api(engine, ServingMetrics(), watch).app())
    assert not watch.has_changed()
    for broken in (CorgiError("the prior is gone", "promote it again"), RuntimeError("torn")):
        error["of"] = broken
        pointer.write_text(str(broken))
        assert watch.has_changed()
        assert not watch.reload(engine)
        ready = client.get("/readyz")
        assert ready.status_code == 200
        assert ready.json()["status"] == "stale"
        assert str(broken) not in ready.json()["detail"]  # which may name folders
        assert "corgi_model_is_stale 1.0" in client.get("/metrics").text
        assert client.post("/v1/images", content=order(), headers=JSON).status_code == 200
    error["of"] = None
    pointer.write_text("whole again")
    assert watch.has_changed()
    assert watch.reload(engine)
    assert client.get("/readyz").json()["status"] == "ready"


def test_an_alias_that_is_new_or_has_moved_is_served_though_the_champions_are_the_same(
    engine: Engine, model: FakeModel, tmp_path: Path
) -> None:
    newest = {"model": model}
    watch = ModelWatch(tmp_path / "models.json", lambda: newest["model"])
    newest["model"] = FakeModel(model.name)
    newest["model"].about["decoders"] = ["gan"]
    assert watch.reload(engine)
    client = TestClient(Api(engine, ServingMetrics()).app())
    assert client.get("/v1/model").json()["decoders"] == ["gan"]


def test_pictures_by_another_decoder_name_its_digest(engine: Engine) -> None:
    client = TestClient(Api(engine, ServingMetrics()).app())
    answer = client.post("/v1/images", content=order(decoder="gan"), headers=JSON).json()
    assert answer["model"]["digests"] == {"decoder": "gan"}
    assert "model=first-gan" in answer["link"]
    png = Image.open(io.BytesIO(base64.b64decode(answer["images"][0])))
    assert json.loads(png.text["corgi"])["model"] == {"decoder": "gan"}
    alone = client.post(
        "/v1/images", content=order(decoder="gan"), headers=JSON | {"Accept": "image/png"}
    )
    png = Image.open(io.BytesIO(alone.content))
    assert json.loads(png.text["corgi"])["model"] == {"decoder": "gan"}


@pytest.fixture
def stopping(model: FakeModel, monkeypatch) -> Iterator[tuple[Engine, int, Callable[[], None]]]:
    """An engine that is served, the port, and what a signal calls."""
    monkeypatch.setattr("corgi_core.serving.engine.FAREWELL", 0.5)
    engine, listener, servers = Engine(model), listening_on("127.0.0.1", 0), []
    monkeypatch.setattr(
        server._Server, "startup",
        lambda self, sockets: servers.append(self) or uvicorn.Server.startup(self, sockets),
    )  # fmt: skip
    app = Api(engine, ServingMetrics()).app()
    thread = threading.Thread(target=server.run, args=(app, engine, listener))
    thread.start()
    wait_until(lambda: bool(servers) and servers[0].started)
    yield engine, listener.getsockname()[1], lambda: servers[0].handle_exit(SIGTERM, None)
    model.gate.set()
    thread.join(20)
    assert not thread.is_alive()


@pytest.mark.parametrize("in_time", [True, False])
def test_a_server_that_stops_answers_what_it_has_accepted(
    model: FakeModel, stopping, in_time: bool, caplog
) -> None:
    engine, port, signal = stopping
    model.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, port, "/v1/images", "POST", JSON, order(num_images=20))
        wait_until(lambda: engine.queue.size == 20)
        signal()
        if in_time:
            threading.Timer(0.1, model.gate.set).start()
        status, text = waiting.result(20)
    assert status == (200 if in_time else 503), text
    with pytest.raises(ConnectionRefusedError):
        ask(port, "/healthz")
    assert not caplog.records
    client = TestClient(Api(engine, ServingMetrics()).app())
    answer = client.post("/v1/images", content=order(), headers=JSON)
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]


def test_a_thread_that_has_ended_is_no_health(model: FakeModel) -> None:
    engine = Engine(model)
    engine.stop()
    client = TestClient(Api(engine, ServingMetrics()).app())
    assert client.get("/healthz").status_code == 503
    assert client.get("/readyz").status_code == 503
