"""The API: what is asked for is made, and what is wrong is named with a remedy."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from corgi_core.serving.app import Api
from corgi_core.serving.engine import Engine
from corgi_core.serving.metrics import ServingMetrics
from corgi_core.serving.model import ServedModel
from tests.helpers.tiny_pipeline import SIDE, png


@pytest.fixture(scope="module")
def model(pipeline) -> ServedModel:
    return ServedModel("a tiny model", pipeline)


@pytest.fixture(scope="module")
def client(model: ServedModel) -> Iterator[TestClient]:
    metrics = ServingMetrics()
    engine = Engine(model, on_batch=metrics.batch_was_sampled)
    with TestClient(Api(engine, metrics).app(), raise_server_exceptions=False) as client:
        yield client
    engine.stop()


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content))).astype(int)


def made(answer) -> list[np.ndarray]:
    assert answer.status_code == 200, answer.text
    return [pixels(base64.b64decode(image)) for image in answer.json()["images"]]


def in_base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def test_a_prompt_becomes_the_pipelines_images(client: TestClient, pipeline) -> None:
    order = {"prompts": ["a red apple"], "num_images": 3, "seed": 5}
    answer = client.post("/v1/images", json=order)
    expected = pipeline.text_to_image("a red apple", 3, seed=5)
    for image, other in zip(made(answer), expected, strict=True):
        assert image.shape == (SIDE, SIDE, 3)
        assert np.abs(image - np.asarray(other)).max() <= 1
    content = answer.json()
    assert content["model"]["digests"]["prior"] == pipeline.prior.digest
    assert content["request"]["num_steps"] == pipeline.decoder.settings.num_steps
    assert content["gaussians"] == [0]
    assert content["nearest"] == [[], [], []]


def test_the_link_has_all_that_makes_the_same_images(client: TestClient) -> None:
    first = client.post("/v1/images", json={"prompts": ["a & b", "c=d"], "num_images": 2})
    values = parse_qs(urlsplit(first.json()["link"]).query)
    assert values.pop("model") == [first.json()["model"]["id"]]
    order = {"prompts": values.pop("prompt")} | {
        name: json.loads(value) for name, (value,) in values.items()
    }
    again = client.post("/v1/images", json=order)
    assert again.json()["images"] == first.json()["images"]
    assert again.json()["request"] == first.json()["request"]


def test_one_image_may_come_as_a_png_that_says_how_it_was_made(client: TestClient) -> None:
    order = {"images": [in_base64(png(1))], "seed": 3}
    answer = client.post("/v1/images", json=order, headers={"Accept": "image/png"})
    assert answer.headers["content-type"] == "image/png"
    assert np.array_equal(pixels(answer.content), made(client.post("/v1/images", json=order))[0])
    assert json.loads(Image.open(io.BytesIO(answer.content)).text["corgi"])["seed"] == 3
    several = client.post(
        "/v1/images", json=order | {"num_images": 2}, headers={"Accept": "image/png"}
    )
    assert several.status_code == 406
    assert "one image" in several.json()["remedy"]


def test_sixteen_clients_at_once_get_the_pictures_of_one(client: TestClient) -> None:
    """A batch rounds products otherwise than one picture does: a value may differ by 1."""
    orders = [
        {"prompts": [f"the {number}th apple"], "seed": number, "num_images": 1 + number % 2}
        for number in range(16)
    ]
    alone = [made(client.post("/v1/images", json=order)) for order in orders]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda order: made(client.post("/v1/images", json=order)), orders))
    for images, others in zip(alone, together, strict=True):
        for image, other in zip(images, others, strict=True):
            assert np.abs(image - other).max() <= 1


@pytest.mark.parametrize(
    ("order", "where"),
    [
        ({}, "0 images and 0 captions"),
        ({"prompts": ["  "]}, "the prompt is empty"),
        ({"prompts": ["a"] * 3}, "body.prompts"),
        ({"prompts": ["a" * 2001]}, "body.prompts.0"),
        ({"prompts": ["a"], "num_images": 65}, "body.num_images"),
        ({"prompts": ["a"], "num_images": "1"}, "body.num_images"),
        ({"prompts": ["a"], "steps": 1}, "body.steps"),
        ({"prompts": ["a"], "weight": 0.5}, "a weight says"),
        ({"prompts": ["a"], "gaussian": 9}, "no Gaussian 9"),
        ({"prompts": ["a", "b"], "num_images": 1}, "no two ends"),
        ({"images": ["%%%"]}, "no base64"),
        ({"images": [in_base64(b"no image")]}, "unknown format"),
    ],
)
def test_what_is_wrong_is_named_with_a_remedy(client: TestClient, order, where: str) -> None:
    answer = client.post("/v1/images", json=order)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert where in problem["detail"]
    assert problem["remedy"]
    assert (problem["status"], problem["type"]) == (422, "about:blank")


def test_one_bad_request_spoils_no_other_of_its_batch(client: TestClient) -> None:
    orders = [{"prompts": ["a"], "seed": 1, "gaussian": 9 if n % 4 == 0 else 0} for n in range(16)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda order: client.post("/v1/images", json=order), orders))
    assert [answer.status_code for answer in answers] == [422, 200, 200, 200] * 4


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("PUT", "/v1/images", 405),
        ("DELETE", "/v1/images/unknown", 404),
        ("DELETE", "/v1/images/%20", 422),
    ],
)
def test_other_paths_and_methods_are_problems_too(client, method, path, status) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_large_body_is_refused_before_it_is_read(client: TestClient) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(30):
            yield b" " * 2**20

    headers = {"Content-Type": "application/json"}
    for body in (b" " * (25 * 2**20), chunks()):
        answer = client.post("/v1/images", content=body, headers=headers)
        assert answer.status_code == 413
        assert "larger than 24 MiB" in answer.json()["detail"]


def test_the_page_loads_nothing_from_elsewhere(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; img-src 'self' data: blob:; connect-src 'self'")


def test_health_readiness_model_and_metrics(client: TestClient, model: ServedModel) -> None:
    assert client.get("/healthz").json()["status"] == "ok"
    assert client.get("/readyz").json()["status"] == "ready"
    about = client.get("/v1/model").json()
    assert about["id"] == model.id
    assert about["max_steps"] == model.pipeline.decoder.max_steps
    assert client.post("/v1/images", json={}).status_code == 422
    figures = client.get("/metrics").text
    assert f'corgi_model_info{{id="{model.id}",name="a tiny model"}} 1.0' in figures
    assert 'corgi_requests_total{route="/v1/images",status="422"}' in figures
    assert "corgi_queue_pictures 0.0" in figures
    assert client.get("/openapi.json").json()["info"]["title"] == "Corgi"
