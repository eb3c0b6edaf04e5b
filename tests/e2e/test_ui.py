"""Both user interfaces as a person meets them: real servers, GraphQL, and a real browser."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import quote
from urllib.request import Request, urlopen

import psutil
import pytest

from orchestration.settings import AS_TRAINING
from tests.helpers import serving
from tests.helpers.browsers import chromium
from tests.helpers.patience import PATIENCE

LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchPipelineExecution(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}
"""
STATUS = """
query Status($run: ID!) {
  runOrError(runId: $run) { ... on Run { status assetMaterializations { assetKey { path } } } }
}
"""
TABLE = """
return [...document.querySelectorAll("[role=row]")].map((row) =>
  [...row.querySelectorAll("img")].map((image) =>
    [Math.round(image.getBoundingClientRect().top), image.naturalWidth]));
"""
REPOSITORIES = """
{ repositoriesOrError { ... on RepositoryConnection { nodes { name location { name } } } } }
"""


def listening(pid: int) -> set[int]:
    """The ports that a process and all below it listen on."""
    top, found = psutil.Process(pid), set()
    for process in (top, *top.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            found |= {c.laddr.port for c in process.net_connections() if c.status == "LISTEN"}
    return found


@pytest.fixture(scope="module")
def pages(workspace) -> Iterator[dict[str, str]]:
    """`corgi ui` on the workspace's ports; {"Dagster": url, "MLflow": url}."""
    ports = workspace.ports
    log = workspace.folder / "ui.log"
    log.unlink(missing_ok=True)
    server = workspace.start(log, "ui", "--set", "workers=0")
    try:
        until = time.monotonic() + PATIENCE
        while "MLflow " not in log.read_text():
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.2)
        assert listening(server.pid) == set(ports)  # what is behind the proxy has no port
        names = ("Dagster", "MLflow")
        yield {n: f"http://127.0.0.1:{port}" for n, port in zip(names, ports, strict=True)}
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(PATIENCE) == 0


def ask(page: str, query: str, **variables: object) -> dict:
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = Request(f"{page}/graphql", body, {"Content-Type": "application/json"})
    with urlopen(request, timeout=PATIENCE) as answer:
        return json.load(answer)["data"]


@pytest.mark.parametrize(
    ("asset", "partition"), [("gaussian_bank", "shifted-k16"), ("prior", "1.7%|shifted-k16")]
)
def test_a_graphql_launch_materialises_the_same_artefact(pages, workspace, asset, partition):
    """What the "Materialize" button sends, for one partition, gives the bytes of `corgi demo`."""
    before = workspace.forget(asset, partition)
    (repository,) = ask(pages["Dagster"], REPOSITORIES)["repositoriesOrError"]["nodes"]
    dimensions = partition.split("|")
    tags = {"dagster/partition": partition}
    if len(dimensions) == 2:
        names = ("caption_subset", "variant")
        tags |= {f"dagster/partition/{n}": d for n, d in zip(names, dimensions, strict=True)}
    params = {
        "selector": {
            "repositoryName": repository["name"],
            "repositoryLocationName": repository["location"]["name"],
            "pipelineName": "__ASSET_JOB",
            "assetSelection": [{"path": [asset]}],
        },
        "executionMetadata": {"tags": [{"key": k, "value": v} for k, v in tags.items()]},
        "mode": "default",
        "runConfigData": {},
    }
    launched = ask(pages["Dagster"], LAUNCH, params=params)["launchPipelineExecution"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    until = time.monotonic() + PATIENCE
    while True:
        run = ask(pages["Dagster"], STATUS, run=launched["run"]["runId"])["runOrError"]
        if run["status"] in ("SUCCESS", "FAILURE", "CANCELED"):
            break
        assert time.monotonic() < until, run
        time.sleep(1)
    assert run["status"] == "SUCCESS"
    assert [m["assetKey"]["path"] for m in run["assetMaterializations"]] == [[asset]]
    assert workspace.bytes_of(asset, partition) == before


@pytest.mark.parametrize("name", ["Dagster", "MLflow"])
def test_other_pages_reach_neither_server(pages, name):
    """A page whose name leads to this machine, and a page of this machine on another port."""
    port, path = int(pages[name].rpartition(":")[2]), "/graphql?query=%7Bversion%7D"
    for headers in ({"Host": "evil.example"}, {"Origin": "http://127.0.0.1:1"}):
        assert serving.ask(port, path, headers=headers)[0] == 403
    assert serving.ask(port, "/", headers={"Host": f"localhost:{port}"})[0] == 200


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


def wait_for_words(browser, *words: str, seconds: float = PATIENCE) -> str:
    """The page's text once it holds all the words."""
    until = time.monotonic() + seconds
    while True:
        text = browser.execute_script("return document.body.innerText")
        if all(word in text for word in words):
            return text
        assert time.monotonic() < until, f"{browser.current_url} shows only:\n{text[:3000]}"
        time.sleep(0.5)


def test_the_lineage_page_shows_the_graph(browser, pages):
    browser.get(
        f"{pages['Dagster']}/assets/evaluation?view=lineage&lineageScope=upstream&lineageDepth=9"
    )
    wait_for_words(browser, "raw_images", "gaussian_bank", "evaluation")
    browser.get(f"{pages['Dagster']}/assets/evaluation?view=overview")
    text = wait_for_words(browser, "evaluation", "best_prior")
    assert "Welcome" not in text


def test_an_mlflow_run_shows_its_metrics(browser, pages, workspace):
    from mlflow import MlflowClient

    store = MlflowClient(f"sqlite:///{workspace.folder}/.corgi/mlflow/mlflow.db")
    experiment = store.get_experiment_by_name("emoji-small")
    runs = store.search_runs([experiment.experiment_id], max_results=200)
    run = next(run for run in runs if run.info.run_name.startswith("prior-"))
    runs_page = f"{pages['MLflow']}/#/experiments/{experiment.experiment_id}"
    sorted_by_cosine = "orderByKey=metrics.%60cosine%60&orderByAsc=false"  # not below parents
    browser.get(f"{runs_page}/runs?{AS_TRAINING}&{sorted_by_cosine}")
    wait_for_words(browser, "linear prior", "prior-shifted-k16-100pc")
    browser.get(f"{runs_page}/runs/{run.info.run_id}?{AS_TRAINING}")
    wait_for_words(browser, "held_out_cosine", "learning_rate")


RUN = "a[href*='/#/experiments/'][href*='/runs/']:not([href*='/artifacts/'])"


def click_to_new_tab(browser, link: str) -> None:
    """Click the first link that the selector finds, and go to the tab that it opens."""
    from selenium.webdriver.support.ui import WebDriverWait

    before = set(browser.window_handles)
    wait = WebDriverWait(browser, PATIENCE)
    wait.until(lambda b: b.find_elements("css selector", link))[0].click()
    wait.until(lambda b: set(b.window_handles) - before)
    (opened,) = set(browser.window_handles) - before
    browser.switch_to.window(opened)


@pytest.mark.parametrize(
    ("asset", "partition"),
    [("evaluation", ""), ("prior", "1.7%|shifted-k16"), ("decoder", "pca")],
)
def test_two_clicks_lead_from_an_asset_to_its_run_and_back(browser, pages, asset, partition):
    view = f"partitions&partition={quote(partition, safe='')}" if partition else "overview"
    browser.get(f"{pages['Dagster']}/assets/{asset}?view={view}")
    wait_for_words(browser, "mlflow_run")
    click_to_new_tab(browser, RUN)
    wait_for_words(browser, "Run ID", "In Dagster", f"the asset {asset}")
    click_to_new_tab(browser, f"a[href^='{pages['Dagster']}/assets/{asset}']")
    assert partition in wait_for_words(browser, asset, "mlflow_run")


def test_the_pictures_of_all_priors_are_side_by_side(browser, pages, workspace):
    """Each prompt's pictures in a row, a column for each prior, and no lists of parameters."""
    browser.get(f"{pages['Dagster']}/assets/evaluation?view=overview")
    wait_for_words(browser, "mlflow_charts")
    click_to_new_tab(browser, "a[href*='viewStateShareKey=priors']")
    text = wait_for_words(browser, "The same prompts and seed", "Image grid")
    assert "training.learning_rate=" not in text
    until = time.monotonic() + PATIENCE
    rows: list[list[tuple[int, int]]] = []
    while len(rows) < 2:
        assert time.monotonic() < until, browser.execute_script(TABLE)
        rows = [row for row in browser.execute_script(TABLE) if len(row) > 1 and all(row)]
        time.sleep(0.5)
    priors = len(workspace.preset.variants) * len(workspace.preset.caption_subsets)
    for row in rows:
        tops, widths = zip(*row, strict=True)
        assert len(set(tops)) == 1
        assert min(widths) > 0
    assert max(map(len, rows)) <= priors
