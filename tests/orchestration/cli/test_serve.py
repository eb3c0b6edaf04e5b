"""`corgi serve`: whom it serves, and which models answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from corgi_core.decoders.pca.decoder import PCADecoder
from corgi_core.errors import CorgiError
from corgi_core.generation import Request
from corgi_core.io import released
from corgi_core.serving.app import Api
from corgi_core.serving.engine import Engine
from corgi_core.serving.metrics import ServingMetrics
from corgi_core.serving.pictures import OrderedPicture
from corgi_core.serving.reloading import ModelWatch
from orchestration.cli.generate import load_at_hand
from orchestration.cli.serve import rules_of, served, served_model
from orchestration.proxy.guard import Guard
from orchestration.proxy.passwords import store_password
from orchestration.settings import Settings
from tests.helpers.fake_served import FakeModel
from tests.helpers.tiny_pipeline import register

pytestmark = pytest.mark.unit


def settings_at(home: Path, **variables: str) -> Settings:
    return Settings.load({"CORGI_HOME": str(home), "CORGI_DATA": str(home / "data"), **variables})


@pytest.mark.parametrize(
    ("host", "url", "is_open", "message"),
    [
        ("localhost", None, False, "no IP address"),
        ("0.0.0.0", "http://lab7:7860", False, "ask for a password.*or give --open"),
        ("192.168.1.7", None, False, "ask for a password.*or give --open"),
        ("0.0.0.0", None, True, "no address that a browser can open.*--url"),
        ("127.0.0.1", "lab7", False, "--url is 'lab7'"),
    ],
)
def test_other_machines_are_served_only_knowingly(tmp_path, host, url, is_open, message) -> None:
    with pytest.raises(CorgiError, match=message):
        rules_of(settings_at(tmp_path), host, 7860, url, is_open)


def test_a_password_opens_the_door_to_other_machines(tmp_path: Path) -> None:
    settings = settings_at(tmp_path, CORGI_PASSWORD_FILE=str(tmp_path / "password"))
    assert rules_of(settings, "0.0.0.0", 7860, "http://lab7:7860", False)


@pytest.mark.parametrize(
    ("host", "url", "headers", "status"),
    [
        ("127.0.0.1", None, {"Host": "127.0.0.1:7860"}, 200),
        ("127.0.0.1", None, {"Host": "localhost:9999", "Origin": "http://localhost:9999"}, 200),
        ("127.0.0.1", None, {"Host": "evil.example"}, 403),
        ("127.0.0.1", None, {"Host": "127.0.0.1", "Origin": "https://evil.example"}, 403),
        ("127.0.0.1", None, {"Host": "127.0.0.1", "Sec-Fetch-Site": "cross-site"}, 403),
        ("127.0.0.1", "https://corgi.example.org", {"Host": "corgi.example.org"}, 200),
        ("192.168.1.7", None, {"Host": "192.168.1.7:7860"}, 200),
        (
            "192.168.1.7", None,
            {"Host": "192.168.1.7:7860", "Origin": "http://192.168.1.7:7860"}, 200,
        ),
        ("192.168.1.7", None, {"Host": "192.168.1.8:7860"}, 403),
    ],
)  # fmt: skip
def test_only_our_page_and_programs_are_answered(tmp_path, host, url, headers, status) -> None:
    engine = Engine(FakeModel())
    rules = rules_of(settings_at(tmp_path), host, 7860, url, is_open=True)
    client = TestClient(Guard(Api(engine, ServingMetrics()).app(), rules))
    answer = client.post("/v1/images", json={"prompts": ["a"]}, headers=headers)
    engine.stop()
    assert answer.status_code == status


def test_a_workspaces_champions_and_its_other_decoders_are_served(pipeline, tmp_path: Path) -> None:
    settings = settings_at(tmp_path)
    other = replace(pipeline.decoder.settings, num_steps=2)
    two_steps = PCADecoder(
        pipeline.decoder.network, other, pipeline.decoder.encoders, pipeline.decoder.card
    )
    register(pipeline, tmp_path, "emoji", quick=("decoder", two_steps))
    model = served_model(settings, None, None)
    assert model.name == "the models of the workspace emoji"
    assert model.digests["prior"] == pipeline.prior.digest
    assert model.training is None
    assert model.about["decoders"] == ["quick"]
    made_by = model.made_by("quick")
    assert made_by["digests"] == model.digests | {"decoder": two_steps.digest}
    assert made_by["id"] != model.id == model.made_by(None)["id"]
    request = Request.of_files(["a"], [], [], seed=3)
    (picture,) = model.sample([OrderedPicture(request, 0, decoder="quick")])
    expected = pipeline.text_to_image("a", num_steps=2, seed=3, output_type="pt")[0]
    np.testing.assert_allclose(picture.pixels, expected, atol=1e-4)
    with pytest.raises(CorgiError, match="no decoder 'slow'"):
        model.sample([OrderedPicture(request, 0, decoder="slow")])


def test_decoders_that_do_not_fit_or_are_replaced_are_not_served(pipeline, tmp_path: Path) -> None:
    champion = pipeline.decoder

    def decoder(num_steps: int, **encoders: str) -> PCADecoder:
        settings = replace(champion.settings, num_steps=num_steps)
        return PCADecoder(
            champion.network, settings, {**champion.encoders, **encoders}, champion.card
        )

    others = {
        "foreign": ("decoder", decoder(2, encoder="another-clip")),
        "replaced": ("decoder", decoder(3)),
        "retrained": ("decoder", decoder(4)),
    }
    register(pipeline, tmp_path, "emoji", **others)
    folders = tmp_path / "mlflow" / "artifacts"
    decoder(5).save(folders / "decoder-replaced")
    model = served_model(settings_at(tmp_path), None, None)
    assert model.about["decoders"] == ["retrained"]
    decoder(6).save(folders / "decoder-retrained")
    request = Request.of_files(["a"], [], [], seed=3)
    with pytest.raises(CorgiError, match="should hold the decoder"):
        model.sample([OrderedPicture(request, 0, decoder="retrained")])


def test_a_server_goes_from_the_released_model_to_champions_and_not_back(
    pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(released, "FOLDER", tmp_path / "package")
    pipeline.save_pretrained(tmp_path / "package" / "emoji-full")
    settings = settings_at(tmp_path)
    models = settings.state / "models.json"
    watch = ModelWatch(models, lambda: served_model(settings, None, None))
    engine = Engine(watch.model)
    assert engine.model.is_released
    register(pipeline, tmp_path, "emoji")
    assert watch.reload(engine)
    own = engine.model
    assert not own.is_released
    models.unlink()
    assert not watch.reload(engine)
    assert engine.model is own
    assert "no champions any more" in str(watch.failure)
    engine.stop()


def test_the_released_model_stands_for_emoji_alone(
    pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(released, "FOLDER", tmp_path / "package")
    pipeline.save_pretrained(tmp_path / "package" / "emoji-full")
    for preset in ("emoji", "emoji-small", "emoji-full"):
        settings = settings_at(tmp_path, CORGI_PRESET=preset)
        assert load_at_hand(settings, None, None).is_released
    with pytest.raises(CorgiError, match=r"corgi run"):
        load_at_hand(settings_at(tmp_path, CORGI_PRESET="coco"), None, None)


def test_health_is_what_the_sampling_thread_says_whoever_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestration.cli.serve.served_model", lambda *_: FakeModel())
    store_password("four words of yours", tmp_path / "password")
    settings = settings_at(tmp_path, CORGI_PASSWORD_FILE=str(tmp_path / "password"))
    rules = rules_of(settings, "0.0.0.0", 7860, "http://lab7:7860", is_open=False)
    app, engine, watch = served(settings, rules)
    client = TestClient(app, headers={"Host": "10.0.0.3:7860"})
    assert client.get("/healthz").json()["status"] == "ok"
    assert client.get("/readyz").status_code == 403
    engine.stop()
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json()["status"]) == (503, "failed")
    watch.stop()
