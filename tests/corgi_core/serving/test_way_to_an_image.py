"""What the page gets of the prior's way: numbers and pictures that agree with the pipeline's."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from corgi_core.encoders.embed import embed_images
from corgi_core.evaluation.nearest import TrainingImages
from corgi_core.serving.app import Api
from corgi_core.serving.engine import Engine
from corgi_core.serving.metrics import ServingMetrics
from corgi_core.serving.model import ServedModel
from corgi_core.serving.way_to_an_image import OrderedWay, embedding_map, way_to_an_image
from tests.helpers.tiny_pipeline import write_images


@pytest.fixture(scope="module")
def training(pipeline, tmp_path_factory) -> TrainingImages:
    images = write_images(tmp_path_factory.mktemp("images"), count=12)
    folder = tmp_path_factory.mktemp("embeddings")
    return TrainingImages(images, embed_images(pipeline.clip, images, None, folder))


def test_the_map_is_of_training_images_alone(training) -> None:
    store = training.embeddings
    rows = store.read("image")[store.rows_of(list(training.images.keys("train")))]
    found = training.sampled(100).numpy()
    np.testing.assert_array_equal(found[np.lexsort(found.T)], rows[np.lexsort(rows.T)])
    some = training.sampled(4).numpy()
    assert len(np.unique(some, axis=0)) == 4
    assert all((rows == each).all(axis=1).any() for each in some)


def test_the_last_image_is_the_captions_and_lies_where_its_embedding_does(
    pipeline, training, monkeypatch
) -> None:
    monkeypatch.setattr("corgi_core.serving.way_to_an_image.WORDS", "cat dog")
    for plane in (embedding_map(pipeline, training), embedding_map(pipeline)):
        way = json.loads(
            json.dumps(way_to_an_image(pipeline, plane, OrderedWay("a car", seed=3, prior_steps=4)))
        )
        assert way["timesteps"] == [1000, 750, 500, 250, 0]
        assert {len(way[name]) for name in ("points", "predictions", "images")} == {5}
        expected = pipeline.text_to_image("a car", prior_steps=4, seed=3)[0]
        assert np.abs(pixels(way["images"][-1]) - np.asarray(expected, int)).max() <= 1
        assert (
            way["points"][-1] == plane.points(pipeline.embed_text("a car", num_steps=4, seed=3))[0]
        )
        assert way["predictions"][-1] == way["points"][-1] != way["points"][0]


def test_the_api_shows_the_way_to_the_image_that_it_makes(pipeline, training) -> None:
    model = ServedModel("tiny", pipeline, training)
    engine = Engine(model)
    client = TestClient(Api(engine, ServingMetrics()).app())
    order = {"prior_steps": 1, "seed": 7}
    way = client.post("/v1/trajectory", json=order | {"prompt": "a car", "number": 1}).json()
    images = client.post("/v1/images", json=order | {"prompts": ["a car"], "num_images": 2}).json()
    expected = pipeline.text_to_image("a car", 2, prior_steps=1, seed=7)[1]
    for image in (way["images"][-1], images["images"][1]):
        assert np.abs(pixels(image) - np.asarray(expected, int)).max() <= 1
    assert images["request"]["prior_steps"] == 1
    assert "prior_steps=1" in images["link"]
    found = client.get("/v1/map").json()
    assert found == embedding_map(pipeline, training).as_json(pipeline.prior.bank)
    refused = client.post("/v1/trajectory", json={"prompt": "a car", "decoder": "none"})
    assert (refused.status_code, refused.json()["remedy"][:12]) == (422, "leave it out")
    engine.stop()


def pixels(image: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image))), int)
