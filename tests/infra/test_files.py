"""The files of infra/ against their schemas, and against what they promise; no engine runs here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from corgi_core.config import PRESETS
from orchestration.environment import NO_TELEMETRY
from orchestration.settings import Settings, Variables
from tests.helpers.compose import compose

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "tests" / "schemas"
KUBERNETES = ROOT / "infra" / "kubernetes"
LIBRARIES = re.compile(r"(AWS_|PG|RAY_|MLFLOW_|DVC_|HF_|DO_NOT_|DAGSTER_|OTEL_)")
STEPS_DOWN = "postgres"  # by itself, after it has taken its volume as its own
CHART = {  # keys of the chart's values, from its schema
    "": {
        "dagsterWebserver", "dagster-user-deployments", "postgresql", "dagsterDaemon", "telemetry",
        "generatePostgresqlPasswordSecret", "runLauncher", "global", "concurrency",
    },
    "dagsterWebserver": {
        "replicaCount", "image", "service", "workspace", "podSecurityContext", "securityContext",
        "resources",
    },
    "dagsterDaemon": {
        "enabled", "image", "podSecurityContext", "securityContext", "resources", "runCoordinator",
        "runMonitoring",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = compose()["services"]
    return found


@pytest.fixture(scope="module")
def objects() -> list[dict[str, Any]]:
    """Every object of Kubernetes'."""
    files = sorted(KUBERNETES.glob("*.yaml"))
    texts = [file.read_text(encoding="utf-8") for file in files if "values" not in file.name]
    return [each for text in texts for each in yaml.safe_load_all(text)]


def schema(name: str) -> Any:
    return json.loads((SCHEMAS / name).read_text(encoding="utf-8"))


def test_the_compose_file_is_as_the_specification_says(services: dict[str, Any]) -> None:
    check = jsonschema.Draft7Validator(schema("compose-spec.json"))
    check.validate(compose())
    with pytest.raises(jsonschema.ValidationError):
        check.validate({"services": services | {"more": {"imag": "x"}}})


def test_every_service_is_confined(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert {"cpus", "memory"} == set(service["deploy"]["resources"]["limits"]), name
        assert name == STEPS_DOWN or service["user"] == "10001:10001", name
        assert name == "prepare" or service["healthcheck"]["test"][0] == "CMD", name
        assert re.fullmatch(r"[\w/]+:\d+\.\d+(\.\d+)?(-\w+)?", service["image"]), name
        assert not service.get("privileged"), name


def test_the_proxy_alone_has_ports_and_only_of_the_host_itself(services: dict[str, Any]) -> None:
    assert {name for name, s in services.items() if "ports" in s} == {"proxy"}
    assert {name for name, s in services.items() if "front" in s["networks"]} == {"proxy"}
    assert all(port.startswith("127.0.0.1:") for port in services["proxy"]["ports"])
    assert compose()["networks"]["back"] == {"internal": True}


def test_secrets_come_by_file_and_each_service_has_those_that_it_reads(
    services: dict[str, Any],
) -> None:
    assert all(set(s) == {"file"} for s in compose()["secrets"].values())
    for name, service in services.items():
        for variable, value in service["environment"].items() if "environment" in service else ():
            if re.search("PASSWORD|SECRET|TOKEN|KEY", variable):
                assert str(value).startswith("/run/secrets/"), (name, variable)
        assert set(service.get("secrets", ())) <= set(compose()["secrets"]), name


def named_variables(services: dict[str, Any], objects: list[dict[str, Any]]) -> set[str]:
    ours = [s["environment"] for s in services.values() if s["image"].startswith("corgi:")]
    (configured,) = [each["data"] for each in objects if each["kind"] == "ConfigMap"]
    return {name for environment in [*ours, configured] for name in environment}


def test_every_variable_is_one_that_is_read(
    services: dict[str, Any], objects: list[dict[str, Any]]
) -> None:
    ours = {f"CORGI_{name.upper()}" for name in Variables.model_fields}
    for name in named_variables(services, objects):
        assert name in ours or LIBRARIES.match(name), name


def test_no_service_sends_telemetry(
    services: dict[str, Any], objects: list[dict[str, Any]]
) -> None:
    (configured,) = [each["data"] for each in objects if each["kind"] == "ConfigMap"]
    for environment in (configured, *(s["environment"] for s in services.values() if "user" in s and
                                s["image"].startswith("corgi:"))):  # fmt: skip
        assert environment.items() >= NO_TELEMETRY.items()
    assert yaml.safe_load((KUBERNETES / "dagster-values.yaml").read_text())["telemetry"] == {
        "enabled": False
    }


def test_the_settings_of_both_deployments_are_ours(
    services: dict[str, Any], objects: list[dict[str, Any]], tmp_path: Path
) -> None:
    (configured,) = [each["data"] for each in objects if each["kind"] == "ConfigMap"]
    for environment in (services["code"]["environment"], configured):
        given = {name: str(value) for name, value in environment.items()}
        settings = Settings.from_environment(given | {"CORGI_HOME": str(tmp_path)})
        settings.access.check()
        assert Path(given["CORGI_HOME"]).parent == Path("/var/lib/corgi")  # no disk is replaced
        assert settings.preset.name in PRESETS
        assert given["DAGSTER_HOME"] == f"{given['CORGI_HOME']}/{settings.workspace}/dagster"
        assert str(settings.storage).startswith("s3://")
        assert str(settings.database_url).startswith("postgresql+psycopg2://")


def test_kuberays_objects_are_as_its_schema_says(objects: list[dict[str, Any]]) -> None:
    checks = {
        kind: jsonschema.Draft202012Validator(s) for kind, s in schema("kuberay.json").items()
    }
    kinds = [each["kind"] for each in objects]
    assert {"RayCluster", "RayJob", "Deployment", "NetworkPolicy"} <= set(kinds)
    for each in objects:
        if each["kind"] in checks:
            checks[each["kind"]].validate(each)
        if each["kind"] == "Deployment":
            checks["PodTemplate"].validate(each["spec"]["template"])
            labels = each["spec"]["template"]["metadata"]["labels"]
            assert each["spec"]["selector"] == {"matchLabels": labels}


def test_whose_runs_have_died_is_known_by_a_name_that_outlives_the_container(
    services: dict[str, Any], objects: list[dict[str, Any]]
) -> None:
    assert services["code"]["hostname"] == "code"
    assert [name for name, each in services.items() if "hostname" in each] == ["code"]
    (cluster,) = [each for each in objects if each["kind"] == "RayCluster"]
    (group,) = [g for g in cluster["spec"]["workerGroupSpecs"] if g["groupName"] == "code"]
    assert group["template"]["spec"]["hostname"] == "code"
    assert group["replicas"] == group["maxReplicas"] == 1


def pods(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = [each["spec"]["template"] for each in objects if each["kind"] == "Deployment"]
    for each in objects:
        if each["kind"] == "RayCluster":
            groups = [each["spec"]["headGroupSpec"], *each["spec"]["workerGroupSpecs"]]
            found += [group["template"] for group in groups]
    return found


def test_every_pod_is_confined(objects: list[dict[str, Any]]) -> None:
    for pod in pods(objects):
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        assert pod["spec"]["automountServiceAccountToken"] is False
        volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
        for container in pod["spec"]["containers"]:
            inside = container["securityContext"]
            assert inside["readOnlyRootFilesystem"]
            assert not inside["allowPrivilegeEscalation"]
            assert inside["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} <= set(container["resources"]["limits"])
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


def test_nothing_is_reached_but_what_a_policy_names(objects: list[dict[str, Any]]) -> None:
    policies = [each for each in objects if each["kind"] == "NetworkPolicy"]
    assert all(each["apiVersion"] == "networking.k8s.io/v1" for each in policies)
    assert all(each["spec"]["policyTypes"] == ["Ingress"] for each in policies)
    (nobody,) = [each for each in policies if each["spec"]["podSelector"] == {}]
    assert "ingress" not in nobody["spec"]
    for each in policies:
        for rule in each["spec"].get("ingress", ()):
            assert rule["from"]  # an empty list would be everyone
            assert set(rule) <= {"from", "ports"}
            for port in rule.get("ports", ()):
                assert port["protocol"] == "TCP"
        if each["spec"]["podSelector"].get("matchLabels", {}).get("part") == "proxy":
            continue
        froms = [source for rule in each["spec"].get("ingress", ()) for source in rule["from"]]
        outside = [s for s in froms if "namespaceSelector" in s]
        assert all("kuberay" in str(s) for s in outside)  # people reach the proxy alone


def test_the_charts_values_have_keys_of_its_schema() -> None:
    values = yaml.safe_load((KUBERNETES / "dagster-values.yaml").read_text(encoding="utf-8"))
    assert set(values) <= CHART[""]
    for section in ("dagsterWebserver", "dagsterDaemon"):
        assert set(values[section]) <= CHART[section]
    assert values["runLauncher"]["type"] == "CustomRunLauncher"
    (server,) = values["dagsterWebserver"]["workspace"]["servers"]
    workspace = yaml.safe_load((ROOT / "infra" / "workspace.yaml").read_text(encoding="utf-8"))
    (located,) = workspace["load_from"]
    named = located["grpc_server"]
    assert server == {"host": named["host"], "port": named["port"], "name": named["location_name"]}


def test_the_images_have_one_version_and_rays_is_the_one_locked(
    services: dict[str, Any], objects: list[dict[str, Any]]
) -> None:
    images = {s["image"] for s in services.values() if s["image"].startswith("corgi")}
    images |= {c["image"] for pod in pods(objects) for c in pod["spec"]["containers"]}
    assert images == {"corgi:0.2.0"}
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    (cluster,) = [each for each in objects if each["kind"] == "RayCluster"]
    assert f"ray=={cluster['spec']['rayVersion']}\n" in lock


def test_the_dockerfile_ends_as_another_user_and_copies_all_packages() -> None:
    lines = (ROOT / "infra" / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert "USER 10001:10001" in lines
    assert not any(
        line.startswith(("RUN", "COPY")) for line in lines[lines.index("USER 10001:10001") :]
    )
    for package in ("corgi_core", "assets", "orchestration", "infra"):
        assert f"COPY {package} {package}" in lines
    bases = [line.split()[1] for line in lines if line.startswith("FROM")]
    assert len(set(bases)) == 1
    assert re.fullmatch(r"python:3\.1[1-3]\.\d+-slim-trixie", bases[0])


def test_the_image_has_the_client_of_the_servers_major_version(services: dict[str, Any]) -> None:
    (major,) = re.findall(r"postgres:(\d+)", services["postgres"]["image"])
    text = (ROOT / "infra" / "Dockerfile").read_text(encoding="utf-8")
    assert re.findall(r"postgresql-client\S*", text) == [f"postgresql-client-{major}"]
    url = services["code"]["environment"]["CORGI_MLFLOW_DATABASE_URL"]
    served = services["mlflow"]["command"]
    assert f"--backend-store-uri={url.replace('://', '+psycopg2://')}" in served
