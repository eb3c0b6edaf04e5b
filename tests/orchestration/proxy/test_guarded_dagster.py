"""Dagster's real webserver, and what reaches it through the proxy."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import dagster as dg
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from orchestration.proxy.forward import Forward
from orchestration.proxy.guard import Guard, Rules
from orchestration.proxy.server import ByPort
from tests.helpers.patience import PATIENCE
from tests.helpers.serving import ask, serving_page

LOCATION = (
    "import dagster as dg\n\n@dg.job\ndef task():\n    pass\n\ndefs = dg.Definitions(jobs=[task])\n"
)
INSTANCE = """
telemetry: {enabled: false}
run_coordinator: {module: dagster._core.run_coordinator, class: QueuedRunCoordinator}
"""  # without a daemon a run that is started waits for ever
LAUNCH = """mutation {
  launchPipelineExecution(executionParams: {mode: "default", runConfigData: {}, selector: {
    repositoryName: "__repository__", repositoryLocationName: "location.py", pipelineName: "task"
  }}) { __typename }
}"""
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    home = tmp_path_factory.mktemp("dagster")
    (home / "dagster.yaml").write_text(INSTANCE)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


@pytest.fixture(scope="module")
def webserver(
    instance: dg.DagsterInstance, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """The socket of the webserver without a guard, the one that `corgi ui` starts."""
    folder = tmp_path_factory.mktemp("web")
    path = folder / "socket"
    (folder / "location.py").write_text(LOCATION)
    server = subprocess.Popen(
        [sys.executable, "-m", "orchestration.proxy.webserver", str(path), "-f", "location.py"],
        cwd=folder, env=os.environ | {"DAGSTER_HOME": instance.root_directory},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        until = time.monotonic() + PATIENCE
        while not path.exists():
            assert server.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        yield path
    finally:
        os.killpg(server.pid, signal.SIGKILL)  # with its code server
        server.wait()


@pytest.fixture(scope="module")
def page(webserver: Path) -> Iterator[int]:
    """The port of the guarded page, which people know as https://dagster.example.org."""
    rules = Rules("https://dagster.example.org", ["proxy"], "CORGI_DAGSTER_URL")
    guard = Guard(Forward(f"unix:{webserver}", "Dagster"), rules)
    with serving_page(lambda port: ByPort({port: guard})) as port:
        yield port


def runs_of(instance: dg.DagsterInstance) -> int:
    return instance.get_runs_count()


def test_a_get_with_a_foreign_host_starts_a_run_where_nothing_guards(
    webserver: Path, instance: dg.DagsterInstance
) -> None:
    before = runs_of(instance)
    with socket.socket(socket.AF_UNIX) as direct:
        direct.connect(str(webserver))
        direct.sendall(
            f"GET /graphql?query={quote(LAUNCH)} HTTP/1.1\r\nHost: evil.example\r\n"
            "Origin: http://evil.example\r\nConnection: close\r\n\r\n".encode()
        )
        said = b"".join(iter(lambda: direct.recv(65536), b"")).decode()
    assert "LaunchRunSuccess" in said
    assert runs_of(instance) == before + 1


POST = json.dumps({"query": LAUNCH}).encode()
MUTATION = quote(LAUNCH)
TWO = quote(f"query Harmless {{ version }} {LAUNCH.replace('mutation', 'mutation Hidden', 1)}")
FOREIGN = {"Origin": "http://evil.example"}
REFUSED = {
    "GET mutation": ("GET", f"/graphql?query={MUTATION}", {}, None),
    "HEAD mutation": ("HEAD", f"/graphql?query={MUTATION}", {}, None),
    "one of two operations": ("GET", f"/graphql?query={TWO}&operationName=Hidden", {}, None),
    "first of two parameters": ("GET", f"/graphql?query={MUTATION}&query=%7Bversion%7D", {}, None),
    "last of two parameters": ("GET", f"/graphql?query=%7Bversion%7D&query={MUTATION}", {}, None),
    "encoded name": ("GET", f"/graphql?%71uery={MUTATION}", {}, None),
    "after a comment": ("GET", f"/graphql?query=%23%20query%0A{MUTATION}", {}, None),
    "encoded path": ("GET", f"/%67raphql?query={MUTATION}", {}, None),
    "dots": ("GET", f"/assets/../graphql?query={MUTATION}", {}, None),
    "two slashes": ("GET", f"//graphql?query={MUTATION}", {}, None),
    "slash at the end": ("GET", f"/graphql/?query={MUTATION}", {}, None),
    "whole address": ("GET", f"http://127.0.0.1/graphql?query={MUTATION}", {}, None),
    "persisted query": (
        "GET", f'/graphql?query={MUTATION}&extensions={quote(json.dumps({"persistedQuery": 1}))}',
        {}, None,
    ),
    "foreign host": ("POST", "/graphql", {"Host": "evil.example", **JSON}, POST),
    "rebound host": ("POST", "/graphql", {"Host": "127.0.0.1.evil.example", **JSON}, POST),
    "foreign origin": ("POST", "/graphql", {**FOREIGN, **JSON}, POST),
    "form of a foreign page": ("POST", f"/graphql?query={MUTATION}", FOREIGN, b"a=b"),
    "sandboxed page": ("POST", "/graphql", {"Origin": "null", **JSON}, POST),
    "another port": ("POST", "/graphql", {"Origin": "http://127.0.0.1:9", **JSON}, POST),
    "image of another page": (
        "POST", f"/graphql?query={MUTATION}", {"Sec-Fetch-Site": "cross-site"}, b"",
    ),
    "public name, foreign origin": (
        "POST", "/graphql", {"Host": "dagster.example.org", "Origin": "http://127.0.0.1", **JSON},
        POST,
    ),
    "override of the method": (
        "GET", f"/graphql?query={MUTATION}", {"X-HTTP-Method-Override": "POST", **JSON}, None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_no_other_page_starts_a_run(page: int, instance: dg.DagsterInstance, case: str) -> None:
    method, target, headers, body = REFUSED[case]
    before = runs_of(instance)
    status, said = ask(page, target, method, headers, body)
    assert status in (400, 403, 405), said
    assert method == "HEAD" or "Fix: " in said or status == 400
    assert runs_of(instance) == before


def test_the_page_itself_and_programs_start_runs(page: int, instance: dg.DagsterInstance) -> None:
    here = f"http://127.0.0.1:{page}"
    for headers in (
        {"Origin": here, "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"},
        {},  # a program
        {"Host": "dagster.example.org", "Origin": "https://dagster.example.org"},
        {"Host": "proxy"},
    ):
        before = runs_of(instance)
        status, said = ask(page, "/graphql", "POST", headers | JSON, POST)
        assert (status, "LaunchRunSuccess" in said) == (200, True), said
        assert runs_of(instance) == before + 1


def test_queries_pages_and_links_pass(page: int) -> None:
    status, said = ask(page, "/graphql?query=%7B%20version%20%7D")
    assert (status, json.loads(said)["data"]) == (200, {"version": dg.__version__})
    assert ask(page, "/graphql?query=not%20graphql")[0] == 400  # Dagster's own refusal
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert ask(page, "/runs", headers=link | {"Sec-Fetch-Dest": "document"})[0] == 200
    assert ask(page, "/runs", headers=link | {"Sec-Fetch-Dest": "iframe"})[0] == 403
    assert ask(page, "/healthz", headers={"Host": "10.1.2.3"}) == (200, "ok")


def test_a_subscription_tells_of_a_run(page: int, instance: dg.DagsterInstance) -> None:
    ask(page, "/graphql", "POST", JSON, POST)
    run = instance.get_runs(limit=1)[0].run_id
    query = f"""subscription {{ pipelineRunLogs(runId: "{run}") {{
      ... on PipelineRunLogsSubscriptionSuccess {{ messages {{ __typename }} }} }} }}"""
    start = {"type": "start", "id": "1", "payload": {"query": query, "variables": {}}}
    address = f"ws://127.0.0.1:{page}/graphql"
    with connect(
        address, subprotocols=["graphql-ws"], origin=f"http://127.0.0.1:{page}"
    ) as subscribed:
        subscribed.send('{"type": "connection_init"}')
        assert json.loads(subscribed.recv(20)) == {"type": "connection_ack"}
        subscribed.send(json.dumps(start))
        events = json.loads(subscribed.recv(20))["payload"]["data"]["pipelineRunLogs"]["messages"]
        assert "RunEnqueuedEvent" in [event["__typename"] for event in events]
    with pytest.raises(InvalidStatus), connect(address, origin="http://evil.example"):
        pass
