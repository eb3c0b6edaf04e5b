"""MLflow answers with a workspace's champions, and with the pictures that they make."""

from __future__ import annotations

import base64
import copy
import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from corgi_core.io.model_index import CHAMPION, PARTS, TextEncoderName
from orchestration.resources import served_pipeline
from orchestration.resources.model_registry import Registry
from orchestration.resources.served_pipeline import register_pipeline
from orchestration.resources.tracking import MLflow
from orchestration.settings import Settings
from tests.helpers.tiny_pipeline import TOKENS

TEXT_ENCODER = TextEncoderName("minilm", TOKENS)


@pytest.fixture
def registry(pipeline, tmp_path: Path) -> Registry:
    settings = Settings.load(
        {"CORGI_HOME": str(tmp_path / ".corgi"), "CORGI_DATA": str(tmp_path / "data")}
    )
    registry = Registry(MLflow.of(settings))
    assert register_pipeline(registry, TEXT_ENCODER) is None
    for part in PARTS:
        registry.alias(part, CHAMPION, registry.register(part, getattr(pipeline, part), {}, "tiny"))
    return registry


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """MLflow's store of the process is another than the workspace's, until it is set."""
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'other.db'}")
    yield mlflow.set_tracking_uri
    mlflow.set_tracking_uri(before)


def test_it_answers_with_the_champions(
    elsewhere, registry: Registry, pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.pyfunc import scoring_server

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(served_pipeline, "CODE", "missing.py")
        assert register_pipeline(registry, TEXT_ENCODER) is None
    assert "missing.py" in caplog.text
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(Path, "__enter__")  # as from Python 3.13 on
        assert register_pipeline(registry, TEXT_ENCODER) == "1"
    assert register_pipeline(registry, TEXT_ENCODER) == "1"
    before = mlflow.get_tracking_uri()
    elsewhere(registry._mlflow.tracking_uri)
    model = mlflow.pyfunc.load_model("models:/emoji-pipeline@champion")
    client = TestClient(scoring_server.init(model))
    answer = client.post(
        "/invocations",
        json={"inputs": {"prompt": ["a red apple", "a car"]}, "params": {"seed": 5}},
    )
    assert answer.status_code == 200, answer.text
    found = [Image.open(io.BytesIO(base64.b64decode(e))) for e in answer.json()["predictions"]]
    expected = pipeline.text_to_image(["a red apple", "a car"], seed=5)
    for image, other in zip(found, expected, strict=True):
        assert np.abs(np.asarray(image, int) - np.asarray(other, int)).max() <= 1

    other = copy.deepcopy(pipeline.prior)
    for parameter in other.network.parameters():
        parameter.data *= 0.9
    registry.alias("prior", CHAMPION, registry.register("prior", other, {}, "another"))
    elsewhere(before)
    assert register_pipeline(registry, TEXT_ENCODER) == "2"
    elsewhere(registry._mlflow.tracking_uri)
    champion = registry.versions("prior")[registry.aliases("prior")[CHAMPION]]
    shutil.rmtree(Path(urlsplit(champion.source).path))
    with pytest.raises((MlflowException, ValueError, OSError)):
        mlflow.pyfunc.load_model("models:/emoji-pipeline@champion")
    assert mlflow.pyfunc.load_model("models:/emoji-pipeline/1")
