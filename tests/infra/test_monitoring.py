"""The dashboard, the rules and Prometheus' configuration name what is served, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from prometheus_client import generate_latest

from corgi_core.serving.metrics import ServingMetrics
from orchestration.proxy.metrics import PATH, exposition
from orchestration.resources.instance import open_instance
from orchestration.resources.trainer import DEVICE
from orchestration.settings import Settings
from tests.helpers.compose import compose

FOLDER = Path(__file__).parents[2] / "infra" / "monitoring"
OF_HISTOGRAMS = ("_bucket", "_sum", "_count")
PAIRS = {"(": ")", "[": "]", "{": "}"}


@pytest.fixture(scope="module")
def board() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "grafana-dashboard.json").read_text("utf-8"))
    return found


@pytest.fixture(scope="module")
def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((FOLDER / "rules.yaml").read_text("utf-8"))["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


@pytest.fixture(scope="module")
def of_workspace(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The metrics of a workspace, by the types that its page says."""
    home = tmp_path_factory.mktemp("home")
    settings = Settings.from_environment({"CORGI_HOME": str(home)})
    with open_instance(settings) as instance:
        instance.event_log_storage.initialize_concurrency_limit_to_default(DEVICE)
    return {name for name, _ in types_in(exposition(settings))}


def types_in(page: str) -> list[tuple[str, str]]:
    return re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE)


def served_by_corgi_serve() -> set[str]:
    found = types_in(generate_latest(ServingMetrics().registry).decode())
    plain = {name for name, kind in found if kind != "histogram"}
    return plain | {
        name + end for name, kind in found if kind == "histogram" for end in OF_HISTOGRAMS
    }


def queries(board: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"\bcorgi_\w+", expression))


def test_every_metric_that_is_named_is_served_and_a_workspaces_are_all_there(
    board: dict[str, Any], rules: list[dict[str, Any]], of_workspace: set[str]
) -> None:
    expressions = queries(board) + [rule["expr"] for rule in rules]
    named = set().union(*map(metrics_in, expressions))
    assert named <= of_workspace | served_by_corgi_serve()
    assert of_workspace <= set().union(*map(metrics_in, queries(board)))
    statuses = {status.value.lower() for status in dg.DagsterRunStatus}
    for expression in expressions:
        for chosen in re.findall(r'status=~?"([^"]+)"', expression):
            assert set(chosen.split("|")) <= statuses
        open_ones: list[str] = []
        for character in expression:
            if character in PAIRS:
                open_ones.append(PAIRS[character])
            elif character in PAIRS.values():
                assert open_ones.pop() == character, expression
        assert not open_ones, expression


def test_no_panel_of_the_dashboard_covers_another(board: dict[str, Any]) -> None:
    taken = set[tuple[int, int]]()
    for panel in board["panels"]:
        box = panel["gridPos"]
        cells = {(box["x"] + x, box["y"] + y) for x in range(box["w"]) for y in range(box["h"])}
        assert box["x"] + box["w"] <= 24
        assert not taken & cells, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    (source,) = board["templating"]["list"]
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == f"${{{source['name']}}}"


def test_prometheus_asks_where_the_metrics_are_and_reads_the_rules(
    rules: list[dict[str, Any]],
) -> None:
    configured = yaml.safe_load((FOLDER / "prometheus.yaml").read_text("utf-8"))
    jobs = {job["job_name"]: job for job in configured["scrape_configs"]}
    assert {job["metrics_path"] for job in jobs.values()} == {PATH}
    (target,) = jobs["corgi"]["static_configs"][0]["targets"]
    host, _, port = target.partition(":")
    proxy = compose()["services"]["proxy"]
    assert host in proxy["environment"]["CORGI_HOSTS"].split(",")
    assert any(published.endswith(f":{port}") for published in proxy["ports"])
    for job in jobs.values():  # a page with a password answers nobody else
        assert "password_file" in job["basic_auth"]
    assert configured["rule_files"] == ["rules.yaml"]
    for rule in rules:
        assert set(rule) == {"alert", "expr", "for", "annotations"}
        for name in re.findall(r'job=~"([^"]+)"', rule["expr"]):
            assert all(re.fullmatch(name, job) for job in jobs)
