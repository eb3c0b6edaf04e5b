"""infra/ray_serve.yaml is what Ray Serve reads; its application answers as `corgi serve` does."""

from __future__ import annotations

import os
import platform
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from starlette.testclient import TestClient

from tests.helpers.tiny_pipeline import register

pytestmark = pytest.mark.unit
CONFIG = Path(__file__).parents[2] / "infra" / "ray_serve.yaml"


@pytest.fixture
def ray_deployment(monkeypatch) -> Any:
    """The module; a package of ray[serve] for gRPC, which is not used, may be missing."""
    if find_spec("grpc_reflection") is None:
        package = ModuleType("grpc_reflection.v1alpha")
        package.reflection = None
        monkeypatch.setitem(sys.modules, "grpc_reflection", ModuleType("grpc_reflection"))
        monkeypatch.setitem(sys.modules, "grpc_reflection.v1alpha", package)
    from infra import ray_deployment

    return ray_deployment


def test_the_file_is_of_ray_serves_schema_and_its_deployment_answers(
    ray_deployment, pipeline, tmp_path: Path, monkeypatch
) -> None:
    from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
    from ray.serve._private.build_app import build_app
    from ray.serve.schema import ServeDeploySchema

    config = ServeDeploySchema.model_validate(yaml.safe_load(CONFIG.read_text()))
    (configured,) = config.applications
    module, name = configured.import_path.split(":")
    assert (module, name) == (ray_deployment.__name__, ray_deployment.application.__name__)
    assert [each.name for each in configured.deployments] == [ray_deployment.Corgi.name]
    kubernetes, *_ = yaml.safe_load_all((CONFIG.parent / "kubernetes/settings.yaml").read_text())
    assert configured.runtime_env["env_vars"].items() - kubernetes["data"].items() == {
        ("CORGI_PASSWORD_FILE", "/run/secrets/corgi/password")
    }
    args = {**configured.args, "is_open": True}
    bound = build_app(
        call_user_app_builder_with_args_if_necessary(ray_deployment.application, args), name="corgi"
    ).deployments[0]
    (options,) = bound.init_args

    register(pipeline, tmp_path, "emoji")
    for variable in configured.runtime_env["env_vars"]:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("CORGI_HOME", str(tmp_path))
    own_class = ray_deployment.Corgi.func_or_class.__mro__[1]  # below what Ray wraps it in
    replica = own_class(options)
    client = TestClient(replica.__serve_build_asgi_app__(), base_url=options.url)
    answer = client.post("/v1/images", json={"prompts": ["a red apple"], "seed": 5})
    assert answer.status_code == 200
    assert answer.json()["model"]["digests"]["prior"] == pipeline.prior.digest
    figures = client.get("/metrics").text
    assert f'corgi_pictures_total{{replica="{platform.node()}:{os.getpid()}"}} 1.0' in figures
    replica.check_health()
    engine = replica._served.engine
    del replica
    assert not engine.is_alive
