"""infra/compose.yaml's services run: by their commands, with their environment, until healthy.

No container engine runs here. PostgreSQL is Debian's, moto stands in for the object store, and all
else is what the image would run.
"""

from __future__ import annotations

import base64
import json
import shutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from orchestration.proxy.passwords import store_password
from tests.helpers import postgres
from tests.helpers.compose import ROOT, Deployment, deployment
from tests.helpers.patience import PATIENCE

PASSWORD = "four words in a row"
ASK = """
import json, sys, urllib.request
url, body, *headers = sys.argv[1:]
request = urllib.request.Request(url, body.encode() or None)
for header in headers:
    request.add_header(*header.split(": ", 1))
try:
    with urllib.request.urlopen(request, timeout=60) as answer:
        print(answer.status, answer.read().decode())
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
"""
WRITE = """
import sys
import dagster as dg
with dg.DagsterInstance.get() as instance:
    for number in map(str, range(25)):
        event = dg.AssetMaterialization(sys.argv[1], partition=number)
        instance.report_runless_asset_event(event)
"""


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """The deployment, with every service healthy."""
    if not find_spec("dagster_postgres"):
        pytest.skip("dagster-postgres is not installed (pip install 'corgi[postgres]')")
    folder = tmp_path_factory.mktemp("team")
    with postgres.empty_cluster() as data, deployment(folder) as team:
        store_password(PASSWORD, folder / "secrets" / "page_password")
        team.start("postgres", [*postgres.serving_command(data, 5432, Path("/run/postgresql"))])
        moto = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "8333"]
        team.start("store", moto)
        team.start("ray-head")
        team.wait_for_health("postgres")
        psql = ["psql", "-h", "postgres", "-U", "corgi", "-d"]
        for words in (
            ["postgres", "-c", "CREATE DATABASE dagster"],  # by POSTGRES_DB in the container
            ["dagster", "-f", str(ROOT / "infra" / "postgres.sql")],
        ):
            assert team.run("code", [*psql, *words]).returncode == 0
        team.start("mlflow")
        prepared = team.run("prepare", team.services["prepare"]["command"])
        assert prepared.returncode == 0, prepared.stderr
        team.wait_for_health("ray-head")
        for name in ("code", "ray-worker"):
            team.start(name)
        team.wait_for_health("code")
        for name in ("webserver", "daemon", "proxy"):
            team.start(name)
        team.wait_for_health("mlflow", "webserver", "daemon", "ray-worker", "proxy")
        yield team


def ask(team: Deployment, url: str, body: str = "", *headers: str) -> tuple[int, str]:
    """What the page answers, asked from the network behind the proxy."""
    done = team.run("code", ["python", "-c", ASK, url, body, *headers])
    status, _, text = done.stdout.partition(" ")
    assert done.returncode == 0, done.stderr
    return int(status), text


def known(host: str) -> list[str]:
    encoded = base64.b64encode(f"any:{PASSWORD}".encode()).decode()
    return [f"Host: {host}", f"Authorization: Basic {encoded}", "Content-Type: application/json"]


def test_every_service_of_the_file_runs(team: Deployment) -> None:
    assert {*team.processes, "prepare"} == set(team.services)
    assert all(process.poll() is None for process in team.processes.values())


def test_the_proxy_lets_in_who_knows_the_password(team: Deployment) -> None:
    query = '{"query": "{ workspaceOrError { ... on Workspace { locationEntries { name } } } }"}'
    dagster, mlflow = "http://proxy:3000", "http://proxy:5000"
    assert ask(team, f"{dagster}/graphql", query)[0] == 401
    status, said = ask(team, f"{dagster}/graphql", query, *known("dagster.example.org"))
    assert (status, json.loads(said)["data"]) == (
        200, {"workspaceOrError": {"locationEntries": [{"name": "orchestration.definitions"}]}}
    )  # fmt: skip
    search = f"{mlflow}/api/2.0/mlflow/experiments/search"
    assert ask(team, search, '{"max_results": 1}')[0] == 401
    status, said = ask(team, search, '{"max_results": 1}', *known("mlflow.example.org"))
    assert (status, json.loads(said)["experiments"][0]["name"]) == (200, "Default")
    assert ask(team, search, '{"max_results": 1}', *known("evil.example"))[0] == 403


def test_prometheus_reads_the_queue_from_postgresql(team: Deployment) -> None:
    assert ask(team, "http://proxy:3000/metrics")[0] == 401
    status, said = ask(team, "http://proxy:3000/metrics", "", *known("proxy"))
    assert (status, 'corgi_runs{status="queued"} 0' in said) == (200, True)
    assert 'corgi_daemon_heartbeat_age_seconds{daemon="sensor"}' in said


def test_two_writers_lose_nothing_on_postgresql(team: Deployment) -> None:
    writers = [["python", "-W", "ignore", "-c", WRITE, name] for name in ("one", "two")]
    started = [team.start_beside("daemon", command) for command in writers]
    assert [process.wait(PATIENCE) for process in started] == [0, 0]
    count = """SELECT asset_key, count(*) FROM event_logs
        WHERE dagster_event_type = 'ASSET_MATERIALIZATION' GROUP BY 1"""
    rows = team.run("code", [
        "psql", "-h", "postgres", "-U", "corgi", "-d", "dagster", "-At", "-c", count,
    ])  # fmt: skip
    assert sorted(rows.stdout.split()) == ['["one"]|25', '["two"]|25']


WRITE_RUNS = """
import http.client, json, sys
server = http.client.HTTPConnection("mlflow", 5001)
kind = {"Content-Type": "application/json"}
for number in range(15):
    body = json.dumps({"experiment_id": "0", "run_name": f"{sys.argv[1]}-{number}"})
    server.request("POST", "/api/2.0/mlflow/runs/create", body, kind)
    answer = server.getresponse()
    answer.read()
    assert answer.status == 200
"""
STORE = """
import http.client
import boto3
server = http.client.HTTPConnection("mlflow", 5001)
server.request("PUT", "/api/2.0/mlflow-artifacts/artifacts/note.txt", b"hello")
assert server.getresponse().status == 200
found = boto3.client("s3").get_object(Bucket="corgi", Key="mlflow/note.txt")
print(found["Body"].read().decode())
"""


def test_mlflow_has_two_writers_runs_in_postgresql_and_files_in_the_store(team: Deployment) -> None:
    commands = [["python", "-c", WRITE_RUNS, name] for name in ("one", "two")]
    started = [team.start_beside("code", command) for command in commands]
    assert [process.wait(PATIENCE) for process in started] == [0, 0]
    count = ["-c", "SELECT count(DISTINCT name) FROM runs"]
    psql = ["psql", "-h", "postgres", "-U", "corgi", "-At", "-d", "mlflow"]
    assert team.run("code", [*psql, *count]).stdout == "30\n"
    stored = team.run("mlflow", ["python", "-c", STORE])
    assert stored.stdout == "hello\n", stored.stderr


def test_a_backup_brings_back_the_home_and_both_databases_that_were_wiped(team: Deployment) -> None:
    mlflow, kind = "http://mlflow:5001/api/2.0/mlflow", "Content-Type: application/json"
    backup, home = "/var/backups/corgi/today.tar", team.folder / "state" / "corgi" / "home"
    psql = ["psql", "-h", "postgres", "-U", "corgi", "-At", "-d"]

    def histories() -> list[str]:
        """What the databases say of MLflow's runs, of their metrics, and of Dagster's assets."""
        return [
            team.run("code", [*psql, name, "-c", f"SELECT {what} ORDER BY 1"]).stdout
            for name, what in (
                ("mlflow", "run_uuid, name, artifact_uri FROM runs"),
                ("mlflow", "run_uuid, key, value FROM metrics"),
                ("dagster", "asset_key, last_materialization FROM asset_keys"),
            )
        ]

    _, said = ask(team, f"{mlflow}/runs/create", '{"experiment_id": "0"}', kind)
    run = json.loads(said)["run"]["info"]["run_id"]
    metric = {"run_id": run, "key": "cosine", "value": 0.75, "timestamp": 1}
    assert ask(team, f"{mlflow}/runs/log-metric", json.dumps(metric), kind)[0] == 200
    wrote = team.run("daemon", ["python", "-W", "ignore", "-c", WRITE, "backed_up"])
    assert wrote.returncode == 0, wrote.stderr
    made = team.run("code", ["corgi", "backup", backup])
    assert made.returncode == 0, made.stderr
    assert "databases: dagster, mlflow" in made.stdout
    assert "Not in it: the files of MLflow's runs, where http://mlflow:5001 " in made.stdout
    before = histories()
    assert run in before[0]
    assert before[1] == f"{run}|cosine|0.75\n"
    assert "backed_up" in before[2]
    configuration = next(home.rglob("dagster.yaml")).read_text()

    team.stop("proxy", "webserver", "daemon", "code", "mlflow")  # docker compose stop
    shutil.rmtree(home)
    refused = team.run("code", ["corgi", "restore", backup])
    assert "tables already" in refused.stderr + refused.stdout
    assert not home.exists()
    for name in ("dagster", "mlflow"):
        for words in (f"DROP DATABASE {name} WITH (FORCE)", f"CREATE DATABASE {name}"):
            assert team.run("code", [*psql, "postgres", "-c", words]).returncode == 0
    assert histories() == ["", "", ""]
    restored = team.run("code", ["corgi", "restore", backup])
    assert restored.returncode == 0, restored.stderr

    assert histories() == before
    assert next(home.rglob("dagster.yaml")).read_text() == configuration


def test_no_log_has_a_secret(team: Deployment) -> None:
    logs = "".join(path.read_text(errors="replace") for path in team.folder.glob("*.log"))
    assert "Uvicorn" in logs
    for secret in (PASSWORD, postgres.PASSWORD, "r" * 64):
        assert secret not in logs
    configuration = next((team.folder / "state").rglob("dagster.yaml")).read_text()
    assert "postgresql+psycopg2://corgi@postgres:5432/dagster" in configuration
