"""Tracking and registry against real stores: SQLite, and a server that dies and comes back."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs
from urllib.request import urlopen

import dagster as dg
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ErrorCode
from PIL import Image
from typer.testing import CliRunner

from corgi_core.errors import CorgiError
from corgi_core.evaluation.paired import CaptionScores
from corgi_core.evaluation.protocol import Protocol
from corgi_core.io.model_index import CHAMPION, ModelIndex, TextEncoderName
from orchestration.cli.app import cli
from orchestration.resources.champions import DECISION_TAG, Champions
from orchestration.resources.mlflow_views import priors_view
from orchestration.resources.model_registry import Registry
from orchestration.resources.outbox import Message, UndeliverableError, deliver_left_over
from orchestration.resources.promotion_history import Event
from orchestration.resources.run_messages import (
    IDENTITY_TAG,
    PARENT_TAG,
    PROTOCOL_TAG,
    SCORES_FOLDER,
    Receiver,
    end_of_killed,
)
from orchestration.resources.scored_runs import scored_model
from orchestration.resources.tracking import REFRESH_TAG, RUN_TAG, MLflow, TrackedRun
from orchestration.settings import Settings
from tests.helpers.patience import PATIENCE
from tests.helpers.smallest_model import Model

STEPS = 5


def resource(folder: Path, tracking_uri: str | None = None, dataset: str | None = None) -> MLflow:
    return MLflow.of(settings(folder, tracking_uri, dataset))


def settings(folder: Path, tracking_uri: str | None = None, dataset: str | None = None) -> Settings:
    environment = {"CORGI_HOME": str(folder / ".corgi"), "CORGI_DATA": str(folder / "data")}
    more = {"MLFLOW_TRACKING_URI": tracking_uri} if tracking_uri else {}
    return Settings.load(environment | more, dataset=dataset)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one SQLite store, whose making takes a second."""
    folder = tmp_path_factory.mktemp("home")
    resource(folder).client().search_experiments()
    return folder


@pytest.fixture
def mlflow(home: Path, request: pytest.FixtureRequest) -> MLflow:
    """The store, with an experiment of the test's own."""
    return resource(home, dataset=request.node.name[:60])


def tracked(mlflow: MLflow) -> list[Run]:
    """The experiment's runs of assets, the newest first; their parents left out."""
    runs = mlflow.client().search_runs([mlflow.experiment_id()])
    return [run for run in runs if "dagster.asset" in run.data.tags]


def train(
    mlflow: MLflow, identity: str = "one", steps: int = STEPS, refresh: str = "first"
) -> dg.ExecuteInProcessResult:
    """A "training" inside a real asset run, which logs its steps."""

    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(["10%"]))
    def prior(context: dg.AssetExecutionContext, mlflow: MLflow) -> None:
        inputs = {"images": "abc"}
        with mlflow.run(context, "prior-10pc", identity, inputs, {"width": 64}) as run:
            for step in range(1, steps + 1):
                run.log_metrics({"step": step, "time": 1e9 + step, "loss": 1 / step, "note": "x"})
            url = run.url
        context.add_output_metadata({"mlflow_run": url or "none"})

    return dg.materialize(
        [prior], resources={"mlflow": mlflow}, partition_key="10%", tags={REFRESH_TAG: refresh}
    )


def url_of(result: dg.ExecuteInProcessResult) -> str:
    (event,) = result.asset_materializations_for_node("prior")
    return str(event.metadata["mlflow_run"].value)


def test_a_training_is_a_run_with_links_both_ways(mlflow: MLflow, home: Path) -> None:
    result = train(mlflow)
    client = mlflow.client()
    (run,) = tracked(mlflow)
    assert run.info.run_name == "prior-10pc"
    assert run.info.status == "FINISHED"
    assert run.data.tags[RUN_TAG] == result.run_id
    assert run.data.tags["dagster.asset"] == "prior"
    assert run.data.tags["dagster.partition"] == "10%"
    assert run.data.tags["data_version.images"] == "abc"
    assert run.data.params == {"width": "64"}
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(s, 1 / s) for s in range(1, STEPS + 1)]
    assert url_of(result).endswith(f"/runs/{run.info.run_id}?workflowType=machine_learning")
    assert run.info.artifact_uri.startswith((home / ".corgi" / "mlflow").as_uri())
    assert not list(Path(mlflow.outbox).glob("*.jsonl"))
    commit = run.data.tags.get("mlflow.source.git.commit", "")
    assert commit.removesuffix("-changed") == git_head()
    assert run.data.tags["mlflow.source.name"] == "Dagster asset prior"
    for page in ("/assets/prior?view=partitions&partition=10%25)", f"/runs/{result.run_id})"):
        assert f"]({mlflow.dagster_address}{page}" in run.data.tags["mlflow.note.content"]


def git_head() -> str:
    """The commit of this project's repository; "" where it lies in none."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def test_a_resumed_training_continues_its_run(mlflow: MLflow) -> None:
    train(mlflow, steps=3)
    train(mlflow, steps=STEPS)
    train(mlflow, identity="another")
    runs = tracked(mlflow)
    assert sorted(run.data.tags[IDENTITY_TAG] for run in runs) == ["another", "one"]
    for run in runs:
        history = mlflow.client().get_metric_history(run.info.run_id, "loss")
        assert [m.step for m in history] == list(range(1, STEPS + 1))  # nothing twice


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError("out of luck"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (dg.DagsterExecutionInterruptedError(), "KILLED"),
    ],
)
def test_an_error_fails_a_run_and_its_parent_and_a_cancellation_kills_them(
    home: Path, error: BaseException, status: str
) -> None:
    mlflow = resource(home, dataset=type(error).__name__.lower())

    @dg.asset
    def prior(context: dg.AssetExecutionContext, mlflow: MLflow) -> None:
        with mlflow.run(context, "prior", "one", {}, {}):
            raise error

    with pytest.raises((type(error), dg.DagsterExecutionInterruptedError)):
        dg.materialize([prior], resources={"mlflow": mlflow})
    runs = mlflow.client().search_runs([mlflow.experiment_id()])
    assert [run.info.status for run in runs] == [status, status]


def test_the_runs_of_one_refresh_are_below_one_parent(mlflow: MLflow) -> None:
    for identity, refresh in (("one", "first"), ("two", "first"), ("three", "second")):
        train(mlflow, identity, refresh=refresh)
    names = {run.info.run_id: run.info.run_name for run in every_run(mlflow)}
    below = {
        run.data.tags[IDENTITY_TAG]: names[run.data.tags[PARENT_TAG]] for run in tracked(mlflow)
    }
    assert below == {"one": "refresh-first", "two": "refresh-first", "three": "refresh-second"}
    assert len(names) == 5
    assert {run.info.status for run in every_run(mlflow)} == {"FINISHED"}


def every_run(mlflow: MLflow) -> list[Run]:
    return list(mlflow.client().search_runs([mlflow.experiment_id()]))


def test_scores_are_added_to_the_run_that_trained_and_to_a_new_one_where_it_is_gone(
    mlflow: MLflow,
) -> None:
    train(mlflow)
    client, (trained,) = mlflow.client(), tracked(mlflow)
    data = [{"name": "images", "digest": "abc", "uri": "/data/images"}]

    def add(cosine: float, decoder: str) -> str | None:
        labels = {"variant": "baseline", "decoder": decoder}
        tags = mlflow.asset_tags("prior", "10%|baseline")
        with mlflow.finished_run("prior-10pc", "one", tags, labels) as run:
            run.log_metrics({"step": 0, "cosine": cosine})
            run.log_datasets("eval", data)
            return run.run_id

    assert add(0.5, "pca") == add(0.6, "cascade") == trained.info.run_id
    run = client.get_run(trained.info.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.end_time == trained.info.end_time
    assert run.data.metrics == {"loss": 1 / STEPS, "cosine": 0.6}
    assert run.data.params == {"width": "64", "variant": "baseline"}
    assert run.data.tags["decoder"] == "cascade"  # the last one; a parameter could not change
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("images", "abc")
    assert json.loads(dataset.dataset.source) == {"uri": "/data/images"}
    assert {tag.key: tag.value for tag in dataset.tags} == {"mlflow.data.context": "eval"}

    client.delete_run(trained.info.run_id)
    anew = client.get_run(str(add(0.7, "pca")))
    assert anew.info.run_id != trained.info.run_id
    assert anew.info.status == "FINISHED"
    assert anew.data.params == {"variant": "baseline"}
    assert anew.data.tags["dagster.partition"] == "10%|baseline"


def test_pictures_have_the_same_titles_in_every_run_and_are_sent_once(
    mlflow: MLflow, tmp_path: Path
) -> None:
    def send(identity: str, colour: str) -> str | None:
        path = tmp_path / f"{identity}-{colour}.png"
        Image.new("RGB", (8, 8), colour).save(path)
        with mlflow.finished_run("prior", identity, {}, {}) as run:
            run.log_pictures({"00 a red apple, “noto” style": path})
            return run.run_id

    def found(run_id: str | None) -> list[list[str]]:
        paths = mlflow.client().list_artifacts(str(run_id), "images")
        return sorted(p.path.split("+")[:3] for p in paths if p.path.endswith(".png"))

    one, again, other = send("one", "red"), send("one", "red"), send("other", "blue")
    first = ["images/00 a red apple noto style", "step", "0"]
    assert one == again
    assert found(one) == found(other) == [first]
    send("one", "green")
    assert found(one) == [first, [*first[:2], "1"]]
    send("one", "red")
    assert len(found(one)) == 2
    with mlflow.finished_run("prior", "one", {}, {}) as run:  # of another title: its first
        run.log_pictures({"zero_shot 00": tmp_path / "other-blue.png"})
    assert found(one)[2] == ["images/zero_shot 00", "step", "0"]


def test_a_view_of_the_charts_is_a_tag_with_the_latest_pictures(
    mlflow: MLflow, tmp_path: Path
) -> None:
    for colour in ("red", "blue"):
        path = tmp_path / f"{colour}.png"
        Image.new("RGB", (8, 8), colour).save(path)
        with mlflow.finished_run("prior", "one", {"dagster.asset": "prior"}, {}) as run:
            run.log_pictures({"00 a": path})
    runs = "tags.`dagster.asset` = 'prior'"
    with mlflow.finished_run("evaluation", "two", {}, {}) as run:
        run.share_view("priors", priors_view(runs, ["cosine", "fid"], ["00 a"]))
        url = run.view_url("priors")
    assert url is not None
    assert url.endswith("&viewStateShareKey=priors")
    tags = mlflow.client().get_experiment(mlflow.experiment_id()).tags
    view = json.loads(tags["mlflow.sharedViewState.priors"])
    grid = view["compareRunCharts"][0]
    assert (grid["imageKeys"], grid["step"], grid["showRunParams"]) == (["00 a"], 1, False)
    sections = {section["uuid"] for section in view["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in view["compareRunCharts"]} < sections
    assert view["searchFilter"] == runs
    without = priors_view(runs, ["cosine"], [])
    assert "IMAGE" not in {chart["type"] for chart in without["compareRunCharts"]}


def scored(mlflow: MLflow, identity: str, name: str, seed: int, cosine: float, steps: int) -> None:
    """A run with scores of three captions, all of which have that cosine."""
    frame = pd.DataFrame({"key": list("abc"), "cosine": cosine, "rank": [1, 2, 9]})
    folder = Path(mlflow.outbox).parent / identity
    protocol = Protocol(
        dataset="made", data_version="abc", held_out_captions=3, prior_steps=steps,
        prior_sampler="ddpm", prior_guidance=1.0, seed=0, encoders=("a",), clip="def",
    )  # fmt: skip
    CaptionScores(frame, protocol).save(folder)
    with mlflow.finished_run(name, identity, {}, {"seed": seed, "variant": name}) as run:
        run.log_artifacts([folder], SCORES_FOLDER)
        run.log_tags({PROTOCOL_TAG: protocol.digest})
        run.log_metrics({"step": 0, "fid": 10 * cosine})


def test_runs_are_compared_by_caption_and_seed_on_the_command_line(
    mlflow: MLflow, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(mlflow, "1", "baseline", 0, 0.5, steps=16)
    scored(mlflow, "2", "shifted", 0, 0.75, steps=16)
    scored(mlflow, "3", "shifted", 1, 0.25, steps=16)  # another seed: the mean is the baseline's
    scored(mlflow, "4", "quicker", 0, 0.75, steps=4)
    assert sorted(scored_model(mlflow, "shifted").by_seed) == [0, 1]
    monkeypatch.setenv("CORGI_HOME", str(home / ".corgi"))
    chart = tmp_path / "chart.png"

    def compare(*words: str) -> str:
        options = ["--dataset", mlflow.experiment.removeprefix("emoji."), "--out", str(chart)]
        done = CliRunner().invoke(cli, ["compare-runs", *words, *options], env={"COLUMNS": "200"})
        return " ".join((done.stdout + done.stderr).split())

    printed = compare("baseline", "shifted")
    assert "3 captions; training seeds: 1 of baseline, 2 of shifted" in printed
    assert "cosine 0.5000 0.5000 +0.0000 -0.2500 to +0.2500" in printed
    assert "recall_at_1 0.3333 0.3333 +0.0000 +0.0000 to +0.0000" in printed
    assert "fid 5.0000 5.0000 +0.0000 –" in printed
    assert Image.open(chart).format == "PNG"
    assert "prior_steps is 16 in one and 4 in the other" in compare("baseline", "quicker")
    assert "no run 'nobody' with scores" in compare("baseline", "nobody")
    assert f"no run '{'0' * 32}' with scores" in compare("baseline", "0" * 32)
    scored(mlflow, "5", "baseline", 1, 0.9, steps=4)  # newer, and of another protocol
    found = scored_model(mlflow, "baseline")
    assert (list(found.by_seed), found.metrics["fid"]) == ([1], 9.0)
    assert "name two runs or more" in compare("baseline")


def test_reading_makes_no_experiment_and_names_a_store_that_does_not_answer(
    mlflow: MLflow, tmp_path: Path
) -> None:
    with pytest.raises(CorgiError, match="no run 'baseline' with scores"):
        scored_model(mlflow, "baseline")
    assert mlflow.client().get_experiment_by_name(mlflow.experiment) is None
    with pytest.raises(CorgiError, match="does not answer"):
        scored_model(resource(tmp_path, f"http://127.0.0.1:{free_port()}"), "baseline")


def test_what_the_store_refuses_for_good_holds_up_nothing(mlflow: MLflow) -> None:
    train(mlflow)
    with mlflow.finished_run("prior", "one", {}, {"width": 65}) as run:  # it is 64
        run.log_metrics({"step": 0, "cosine": 0.5})
    (trained,) = tracked(mlflow)
    assert trained.data.params["width"] == "64"
    assert trained.data.metrics["cosine"] == 0.5
    assert not list(Path(mlflow.outbox).glob("*.jsonl"))


def test_the_page_that_compares_runs_has_them_all(mlflow: MLflow) -> None:
    runs = []
    for identity in ("one", "two"):
        with mlflow.finished_run("prior", identity, {}, {}) as run:
            runs.append(run)
    page = mlflow.comparison(runs)
    assert page
    query = parse_qs(page.partition("/#/compare-runs?")[2])
    assert json.loads(query["runs"][0]) == [run.run_id for run in runs]
    assert json.loads(query["experiments"][0]) == [mlflow.experiment_id()]
    assert mlflow.comparison([]) is None
    silent = TrackedRun.__new__(TrackedRun)
    silent._receiver = Receiver(mlflow)
    silent._receiver.opened.set()
    assert mlflow.comparison([silent, *runs]) == page
    assert mlflow.comparison([silent]) is None


def test_a_deleted_experiment_is_restored(mlflow: MLflow) -> None:
    train(mlflow)
    mlflow.client().delete_experiment(mlflow.experiment_id())
    train(mlflow, "two")
    assert {run.data.tags[IDENTITY_TAG] for run in tracked(mlflow)} >= {"two"}


def message(kind: str, **content: object) -> Message:
    return {"kind": kind, **content}


def start(identity: str, moment: int, parent: str = "refresh") -> Message:
    above = {"name": parent, "identity": parent, "description": ""}
    tags = {IDENTITY_TAG: identity}
    return message("start", name=identity, tags=tags, moment=moment, parent=above)


def deliver(mlflow: MLflow, *messages: Message) -> None:
    receiver = Receiver(mlflow)
    for each in messages:
        receiver(each)


def statuses(mlflow: MLflow) -> dict[str, str]:
    return {run.info.run_name: run.info.status for run in every_run(mlflow)}


def test_a_killed_process_leaves_a_killed_run(mlflow: MLflow) -> None:
    left = Path(mlflow.outbox) / "left.jsonl"
    left.parent.mkdir(parents=True, exist_ok=True)
    lines = [start("one", 5000), message("tags", values={"a": "b"})]
    left.write_text("".join(json.dumps(each) + "\n" for each in lines))
    os.utime(left, (9, 9))
    assert deliver_left_over(left.parent, lambda: Receiver(mlflow), end_of_killed) == 1
    assert statuses(mlflow) == {"one": "KILLED", "refresh": "KILLED"}
    assert {run.info.end_time for run in every_run(mlflow)} == {9000}
    deliver(mlflow, start("one", 10_000), message("end", status="FINISHED", moment=11_000))
    assert statuses(mlflow) == {"one": "FINISHED", "refresh": "FINISHED"}  # it was resumed
    deliver(mlflow, start("one", 5000), message("end", status="KILLED", moment=9000))  # late
    assert statuses(mlflow) == {"one": "FINISHED", "refresh": "FINISHED"}
    assert end_of_killed([], 0) == end_of_killed([message("find")], 0) == []
    assert end_of_killed([lines[0], message("end")], 0) == []


def test_a_run_that_finishes_after_a_failed_one_leaves_their_parent_failed(mlflow: MLflow) -> None:
    for identity, status in (("one", "FAILED"), ("two", "FINISHED")):
        deliver(mlflow, start(identity, 1000), message("end", status=status, moment=2000))
    assert statuses(mlflow) == {"one": "FAILED", "two": "FINISHED", "refresh": "FAILED"}
    deliver(mlflow, start("one", 3000), message("end", status="FINISHED", moment=4000))
    assert statuses(mlflow)["refresh"] == "FINISHED"  # it was tried again


def test_starts_at_once_make_one_run_and_one_parent(mlflow: MLflow) -> None:
    mlflow.experiment_id()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: deliver(mlflow, start(f"run-{i % 2}", 1000)), range(4)))
    assert sorted(run.info.run_name for run in every_run(mlflow)) == ["refresh", "run-0", "run-1"]


def test_what_a_later_attempt_may_change_is_not_dropped(
    mlflow: MLflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Restarting:
        def log_batch(self, *_: object, **__: object) -> None:
            raise MlflowException("the connection is lost", ErrorCode.Value("BAD_REQUEST"))

    receiver = Receiver(mlflow)
    receiver.run_id = "0" * 32
    monkeypatch.setattr(MLflow, "client", lambda _: Restarting())
    with pytest.raises(MlflowException):
        receiver(message("tags", values={}))


def test_messages_of_another_version_are_left_out(mlflow: MLflow) -> None:
    for wrong in ({}, {"kind": "song"}, {"kind": "tags"}, start("x", 1) | {"tags": {}}):
        with pytest.raises(UndeliverableError):
            Receiver(mlflow)(wrong)


def test_pictures_that_arrive_again_half_way_are_logged_once(
    mlflow: MLflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {}
    for title in ("a", "b"):
        files[title] = str(tmp_path / f"{title}.png")
        Image.new("RGB", (8, 8)).save(files[title])
    opening, log = message("find", name="x", tags={IDENTITY_TAG: "x"}), MlflowClient.log_image

    def cut_off(client: MlflowClient, run: str, image: Image.Image, key: str, **more: int) -> None:
        if key == "b":
            raise ConnectionError("down")
        log(client, run, image, key=key, **more)

    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, "log_image", cut_off)
        with pytest.raises(ConnectionError):
            deliver(mlflow, opening, message("pictures", files=files))
    deliver(mlflow, opening, message("pictures", files=files))
    (run,) = every_run(mlflow)
    logged = mlflow.client().list_artifacts(run.info.run_id, "images")
    names = sorted(file.path.split("+")[0] for file in logged if file.path.endswith(".png"))
    assert names == ["images/a", "images/b"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def served(folder: Path, port: int) -> Iterator[str]:
    """MLflow's own server on an SQLite store in `folder`."""
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/served.db",
        "--artifacts-destination", str(folder / "served"),
    ]  # fmt: skip
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log = (folder / "server.log").open("ab")
    server = subprocess.Popen(
        command, env=environment, stdout=log, stderr=log, start_new_session=True
    )
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + PATIENCE
        while True:
            assert server.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < until, (folder / "server.log").read_text()
            try:
                urlopen(f"{address}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_a_dead_server_fails_nothing_and_gets_all_later(tmp_path: Path) -> None:
    """Also: the registry and its champions through the server."""
    port = free_port()
    mlflow = resource(tmp_path, f"http://127.0.0.1:{port}")
    began = time.monotonic()
    assert train(mlflow).success
    assert url_of(train(mlflow, "two")) == "none"
    assert time.monotonic() - began < 60
    outbox = Path(mlflow.outbox)
    assert len(list(outbox.glob("*.jsonl"))) == 2
    with pytest.raises(CorgiError, match="does not answer"):
        Registry(mlflow)

    with served(tmp_path, port):
        assert train(mlflow, "three").success  # sends what was left before its own
        assert not list(outbox.glob("*.jsonl"))
        client = mlflow.client()
        runs = tracked(mlflow)
        assert sorted(run.data.tags[IDENTITY_TAG] for run in runs) == ["one", "three", "two"]
        for run in runs:
            history = client.get_metric_history(run.info.run_id, "loss")
            assert [m.step for m in history] == list(range(1, STEPS + 1))
            assert run.info.status == "FINISHED"
        promote_and_read_back(mlflow)
    index = ModelIndex.load(Path(mlflow.models_file))  # the server is gone, and not needed
    assert Model.load(index.folder("prior")).digest == "bbb"


def promote_and_read_back(mlflow: MLflow) -> None:
    registry, path = Registry(mlflow), Path(mlflow.models_file)
    champions = Champions(registry)
    registry.write_index(TextEncoderName("minilm", 8))
    with pytest.raises(CorgiError, match="no prior with the alias 'champion'"):
        ModelIndex.load(path).folder("prior")
    first = registry.register("prior", Model("aaa", {"training": "one"}), {"variant": "x"}, "A.")
    scores = {"cosine": 0.25}
    second = registry.register("prior", Model("bbb"), {"variant": "y"}, "B.", scores)
    assert registry.register("prior", Model("aaa"), {"variant": "x"}, "A again.") == first
    assert (first, second, registry.added) == ("1", "2", 2)
    for version, digest in ((first, "aaa"), (second, "bbb")):
        with champions.deciding():
            before = champions.present("prior")
            why = "the test says so"
            champions.promote("prior", CHAMPION, version, Event.BY_HAND, why, before)
        registry.write_index(TextEncoderName("minilm", 8))
        assert Model.load(ModelIndex.load(path).folder("prior")).digest == digest
    client = mlflow.client()
    champion = client.get_model_version_by_alias(registry.name("prior"), CHAMPION)
    assert str(champion.version) == second
    assert "test says so" in champion.tags[f"{DECISION_TAG}.{CHAMPION}"]
    trained = client.get_model_version(registry.name("prior"), first)
    identity = client.get_run(trained.run_id).data.tags[IDENTITY_TAG]
    assert identity == "one"  # the model lies with the run that trained it
    scored = client.get_logged_model(champion.tags["logged_model"])
    assert (scored.status, scored.name) == ("READY", "prior-y")
    assert [(metric.key, metric.value) for metric in scored.metrics] == [("cosine", 0.25)]
    run = client.get_run(scored.source_run_id)
    assert run.data.metrics == scores
    assert [output.model_id for output in run.outputs.model_outputs] == [scored.model_id]
    registry.register("prior", Model("bbb"), {"variant": "y"}, "B.", scores)
    assert len(client.get_metric_history(scored.source_run_id, "cosine")) == 1


def test_names_that_mlflow_refuses_are_keys_like_them(mlflow: MLflow) -> None:
    odd, long = "../priors/kandinsky (1) “é”", "x" * 300
    with mlflow.finished_run("prior", "one", {f"data_version.{odd}": "abc"}, {odd: 1}) as run:
        run.log_tags({odd: "t"})
        run.log_metrics({"step": 0, odd: 0.5, long + "a": 1, long + "b": 2})
    (found,) = every_run(mlflow)
    assert found.data.tags["data_version.../priors/kandinsky _1_ ___"] == "abc"
    assert found.data.tags["_.._priors_kandinsky _1_ ___"] == "t"
    assert found.data.params == {"_.._priors_kandinsky _1_ ___": "1"}
    assert sorted(found.data.metrics.values()) == [0.5, 1, 2]


def test_what_a_user_has_deleted_stops_no_registration(
    mlflow: MLflow, caplog: pytest.LogCaptureFixture
) -> None:
    registry, client = Registry(mlflow), mlflow.client()
    for digest, delete in (("aaa", "run"), ("bbb", "model")):
        version = registry.register("prior", Model(digest), {"variant": digest}, "A.")
        found = client.get_model_version(registry.name("prior"), version)
        if delete == "run":
            client.delete_run(found.run_id)
        else:
            client.delete_logged_model(found.tags["logged_model"])
        again = registry.register("prior", Model(digest), {"variant": digest}, "A.", {"cosine": 1})
        assert again == version
        assert f"the scores of the logged model {found.tags['logged_model']}" in caplog.text


def test_the_registry_on_sqlite(mlflow: MLflow) -> None:
    train(mlflow)
    promote_and_read_back(mlflow)


def test_nothing_left_is_nothing_to_deliver(tmp_path: Path) -> None:
    assert deliver_left_over(tmp_path / "none", lambda: lambda message: None) == 0
