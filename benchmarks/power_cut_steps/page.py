"""Dagster's page, asked as a browser asks it: start a run, cancel it, see how it stands."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchPipelineExecution(executionParams: $params) {
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}
"""
TERMINATE = """
mutation Terminate($run: String!) { terminateRun(runId: $run) { __typename } }
"""
STATUS = "query Status($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }"
REPOSITORIES = """
{ repositoriesOrError { ... on RepositoryConnection { nodes { name location { name } } } } }
"""
ASSETS = "__ASSET_JOB"  # Dagster's name of the job of all assets


@dataclass(frozen=True)
class Page:
    """A webserver: "127.0.0.1:3000", or the path of its Unix socket."""

    address: str

    def launch(self, job: str = ASSETS, asset: str | None = None, **tags: str) -> str:
        """Start a job, or that job for one asset alone, with these tags; the run's id."""
        (repository,) = self.ask(REPOSITORIES)["repositoriesOrError"]["nodes"]
        selector: dict[str, Any] = {
            "repositoryName": repository["name"],
            "repositoryLocationName": repository["location"]["name"],
            "pipelineName": job,
        }
        if asset:
            selector["assetSelection"] = [{"path": [asset]}]
        given = [{"key": key, "value": value} for key, value in tags.items()]
        params = {
            "selector": selector, "mode": "default", "runConfigData": {},
            "executionMetadata": {"tags": given},
        }  # fmt: skip
        answer = self.ask(LAUNCH, params=params)["launchPipelineExecution"]
        if "run" not in answer:
            raise RuntimeError(str(answer))
        return str(answer["run"]["runId"])

    def terminate(self, run: str) -> None:
        """Press *Terminate*."""
        answer = self.ask(TERMINATE, run=run)["terminateRun"]["__typename"]
        if answer != "TerminateRunSuccess":
            raise RuntimeError(answer)

    def status(self, run: str) -> str:
        """Such as "STARTED"."""
        return str(self.ask(STATUS, run=run)["runOrError"]["status"])

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The data of the answer to a GraphQL query."""
        connection = self._connection()
        try:
            body = json.dumps({"query": query, "variables": variables})
            connection.request("POST", "/graphql", body, {"Content-Type": "application/json"})
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return dict(answer["data"])

    def _connection(self) -> HTTPConnection:
        if not self.address.startswith("/"):
            return HTTPConnection(self.address, timeout=60)
        connection = HTTPConnection("localhost", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(self.address)
        return connection
