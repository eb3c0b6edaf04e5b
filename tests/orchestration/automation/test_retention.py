"""A year of weekly retrains stays bounded, and what generates, rolls back or is unchanged stays."""

from __future__ import annotations

import shlex
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import numpy as np
import pytest
from mlflow.cli import gc as mlflow_gc
from safetensors.numpy import save_file
from upath import UPath

from corgi_core.errors import CorgiError
from corgi_core.io.files import write_json
from corgi_core.io.folders import atomic_folder
from corgi_core.io.locks import exclusive_lock
from corgi_core.io.model_index import CHAMPION, ModelIndex, TextEncoderName
from orchestration.automation.jobs import RETENTION, jobs_of
from orchestration.automation.retention import Removed, Retention, clean
from orchestration.automation.staleness import staleness
from orchestration.cli.gc import lines_of, rows_left
from orchestration.resources import leftover_work
from orchestration.resources.champions import Champions
from orchestration.resources.leftovers import Kind
from orchestration.resources.mlflow_rows import why_rows_stay
from orchestration.resources.model_registry import DIGEST_TAG, PIPELINE, Registry
from orchestration.resources.promotion_history import Event
from orchestration.resources.tracking import MLflow
from orchestration.resources.workspace import Workspace
from orchestration.settings import Settings, sqlite_path

PARTITION = "1.7%|shifted-k1"
WEIGHTS = 25_000  # floats of a model
SIZE = 4 * WEIGHTS + 80  # bytes of its file
MUCH_LATER = timedelta(weeks=500)


@dataclass
class Prior:
    """A model folder without a model."""

    digest: str
    card: dict[str, str] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """As Corgi's models: whole or not at all."""
        with atomic_folder(folder) as temporary:
            self._write(Path(str(temporary)))

    def _write(self, folder: Path) -> None:
        seed = int(self.digest.removeprefix("week"))
        weights = np.random.default_rng(seed).normal(size=WEIGHTS).astype(np.float32)
        save_file({"network": weights}, folder / "model.safetensors")
        write_json(folder / "ensemble.json", {"digest": self.digest})
        write_json(folder / "card.json", self.card)


@dg.asset
def image_embeddings() -> dg.MaterializeResult:  # type: ignore[type-arg]
    return dg.MaterializeResult(data_version=dg.DataVersion("embedded"))


@dg.asset(partitions_def=dg.StaticPartitionsDefinition([PARTITION]), deps=[image_embeddings])
def prior() -> dg.MaterializeResult:  # type: ignore[type-arg]
    return dg.MaterializeResult()


@dataclass
class Lab:
    """A workspace whose retrains are made, not computed."""

    settings: Settings
    instance: dg.DagsterInstance
    registry: Registry
    workspace: Workspace

    @property
    def champions(self) -> Champions:
        return Champions(self.registry)

    @property
    def stored(self) -> Path:
        return Path(str(self.workspace.path_of("prior", PARTITION)))

    def work(self, week: int) -> Path:
        folder = self.workspace.work_of(UPath(self.workspace.work), "prior", PARTITION)
        return Path(str(folder)) / f"identity{week}"

    def retrain(self, week: int, *, promoted: bool = False, with_run: bool = False) -> None:
        """What a retrain leaves: work, model, materialization, version, perhaps a promotion."""
        model = Prior(f"week{week}", {"training": f"identity{week}"})
        model.save(self.work(week))
        write_json(self.work(week) / "finished.json", {})
        model.save(self.stored)
        time.sleep(0.01)  # a disk's clock is coarser than Dagster's
        if with_run:
            dg.materialize(
                [prior, image_embeddings],
                selection=[prior],
                partition_key=PARTITION,
                instance=self.instance,
            )
        else:
            made = dg.AssetMaterialization("prior", partition=PARTITION)
            self.instance.report_runless_asset_event(made)
        version = self.registry.register("prior", model, {"variant": "shifted-k1"}, "A prior.")
        if promoted:
            with self.champions.deciding():
                before, event = self.champions.present("prior"), Event.PROMOTED
                self.champions.promote("prior", CHAMPION, version, event, "better", before)
            self.registry.write_index(TextEncoderName("minilm", 16))

    def clean(self, *, after: timedelta = MUCH_LATER, dry_run: bool = False) -> dict[Kind, int]:
        now = datetime.now(UTC) + after
        found = clean(self.settings, self.instance, Retention(), dry_run=dry_run, now=now)
        return {each.kind: each.count for each in found if each.count}

    @property
    def versions(self) -> set[int]:
        return set(map(int, self.registry.versions("prior")))

    @property
    def runs(self) -> int:
        return len(self.instance.get_runs())

    @property
    def bytes_of_models(self) -> int:
        """In work, storage and MLflow, each content once."""
        folders = (self.settings.state, self.settings.mlflow_artifacts / self.settings.workspace)
        files = [p.stat() for root in folders for p in root.rglob("*.safetensors")]
        return sum({file.st_ino: file.st_size for file in files}.values())

    @property
    def why_stale(self) -> str | None:
        graph = dg.Definitions([prior, image_embeddings]).resolve_asset_graph()
        return staleness(graph, prior.key, PARTITION, self.instance)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one MLflow store, whose making takes seconds."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def lab(home: Path, request: pytest.FixtureRequest) -> Iterator[Lab]:
    environment = {"CORGI_HOME": str(home / ".corgi"), "CORGI_DATA": str(home / "data")}
    settings = Settings.load(environment, dataset=request.node.name[:60])
    with dg.DagsterInstance.ephemeral() as instance:
        registry = Registry(MLflow.of(settings))
        yield Lab(settings, instance, registry, Workspace.of(settings))


def test_a_year_of_retrains_stays_bounded(lab: Lab) -> None:
    sizes = []
    for week in range(52):
        lab.retrain(week, promoted=week % 8 == 0)
        if week % 8 == 3:
            lab.clean()
            sizes.append(lab.bytes_of_models)
    assert sizes[3:] == [5 * SIZE] * 4  # from the fourth champion on, each content once
    assert lab.versions == {25, 33, 41, 49, 52}  # four champions, and what is materialised
    index = ModelIndex.load(lab.settings.state / "models.json")
    assert (index.folder("prior") / "model.safetensors").stat().st_size >= SIZE
    with lab.champions.deciding():
        entry = lab.champions.roll_back(CHAMPION, "worse pictures")[0]
    assert entry.digest == "week40"
    folder = lab.registry.model("prior", entry.version).folder
    assert (folder / "model.safetensors").is_file()


def test_what_is_unchanged_stays_so_without_the_runs_of_before(lab: Lab) -> None:
    dg.materialize([image_embeddings], instance=lab.instance)
    for week in range(3):
        lab.retrain(week, promoted=week == 0, with_run=True)
    assert (lab.why_stale, lab.runs) == (None, 4)
    assert lab.clean(after=timedelta()) == {Kind.TWICE: 4}  # young models and runs stay
    assert lab.versions == {1, 2, 3}
    assert lab.clean() == {Kind.VERSIONS: 1, Kind.WORK: 1, Kind.RUNS: 2}
    assert (lab.why_stale, lab.runs, lab.versions) == (None, 2, {1, 3})
    assert lab.clean() == {}


def test_a_dry_run_removes_nothing(lab: Lab) -> None:
    for week in range(2):
        lab.retrain(week)
    expected, size = {Kind.VERSIONS: 1, Kind.WORK: 1, Kind.TWICE: 2}, lab.bytes_of_models
    assert lab.clean(dry_run=True) == expected
    assert (lab.versions, lab.bytes_of_models) == ({1, 2}, size)
    assert lab.clean() == expected
    assert lab.bytes_of_models == size - 4 * SIZE


def test_registered_weights_and_those_of_work_are_one_file_with_the_stored_ones(lab: Lab) -> None:
    lab.retrain(0)
    model = lab.registry.model("prior", "1").folder
    before = (model / "model.safetensors").read_bytes()
    lab.clean()
    assert (model / "model.safetensors").samefile(lab.stored / "model.safetensors")
    assert (lab.work(0) / "model.safetensors").samefile(lab.stored / "model.safetensors")
    assert (model / "model.safetensors").read_bytes() == before
    Prior("week1").save(lab.stored)
    assert (model / "model.safetensors").read_bytes() == before


def test_work_that_goes_on_stays(lab: Lab) -> None:
    lab.retrain(0)
    Prior("week1").save(lab.work(1))  # begun after the last materialization, and not finished
    Prior("week0").save(lab.work(0) / "checkpoints" / "step-000010")  # of a finished training
    assert lab.clean() == {Kind.CHECKPOINTS: 1, Kind.TWICE: 3}
    assert lab.work(0).is_dir()
    assert lab.work(1).is_dir()


def test_nothing_is_removed_while_a_run_is_at_work(lab: Lab) -> None:
    run = dg.DagsterRun("everything", status=dg.DagsterRunStatus.STARTED)
    lab.instance.add_run(run)
    with pytest.raises(CorgiError, match="runs are at work: everything"):
        lab.clean()
    lock = lab.settings.state / "refresh.lock"
    with exclusive_lock(lock, "a refresh"), pytest.raises(CorgiError, match="up to date already"):
        lab.clean()


def test_the_job_cleans_in_a_run_of_its_own_and_mlflows_rows_too(lab: Lab) -> None:
    for week in range(2):
        lab.retrain(week)
    client, experiment = MLflow.of(lab.settings).client(), MLflow.of(lab.settings).experiment_id()
    long_ago, lately = (client.create_run(experiment).info.run_id for _ in range(2))
    for run in (long_ago, lately):
        client.delete_run(run)
    with sqlite3.connect(sqlite_path(lab.settings.tracking_uri)) as database:
        database.execute("UPDATE runs SET deleted_time = 1 WHERE run_uuid = ?", [long_ago])
    job = next(job for job in jobs_of(lab.settings) if job.name == RETENTION)
    assert job.execute_in_process(instance=lab.instance).success
    assert [run.info.run_id for run in lab.registry.deleted_runs()] == [lately]
    assert lab.clean() == {Kind.VERSIONS: 1, Kind.WORK: 1, Kind.RUNS: 1}  # too young before
    assert lab.versions == {2}


def test_the_command_says_how_much_goes() -> None:
    rows = lines_of([Removed(Kind.WORK, 3, 12_345_678), Removed(Kind.RUNS, 1_000, 400_000)])
    assert [row.split()[-2:] for row in rows] == [
        ["many", "MB"], ["3", "12.3"], ["1,000", "0.4"], ["12.7"]
    ]  # fmt: skip
    assert rows[1].startswith("work folders of models that were replaced ")


def test_the_command_that_removes_the_rows_of_deleted_runs_names_their_database(lab: Lab) -> None:
    words = shlex.split(rows_left(lab.settings, 3, 8, "others may use it").splitlines()[-1])
    options = dict(zip(words[2::2], words[3::2], strict=True))
    assert words[:2] == ["mlflow", "gc"]
    assert set(options) <= {option for each in mlflow_gc.params for option in each.opts}
    assert options["--older-than"] == "56d"
    assert Path(options["--backend-store-uri"].removeprefix("sqlite:///")).is_file()
    given = {"MLFLOW_TRACKING_URI": "http://mlflow:5001", "CORGI_HOME": str(lab.settings.home)}
    said = rows_left(Settings.from_environment(given), 3, 8, "")
    assert "--backend-store-uri DATABASE_OF_THE_SERVER " in said
    given["CORGI_MLFLOW_DATABASE_URL"] = "postgresql://corgi@db/mlflow"
    said = rows_left(Settings.from_environment(given), 3, 8, "")
    assert "--backend-store-uri postgresql+psycopg2://corgi@db/mlflow " in said


def test_what_a_killed_removal_left_goes_with_the_next(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    for week in range(2):
        lab.retrain(week)
    size = lab.bytes_of_models
    with monkeypatch.context() as patch:
        patch.setattr(Registry, "delete_artifacts", _killed)
        with pytest.raises(KeyboardInterrupt):
            lab.clean()
    assert lab.versions == {2}  # nothing leads to the files any more
    with monkeypatch.context() as patch:
        patch.setattr(leftover_work, "shutil", SimpleNamespace(rmtree=_killed))
        with pytest.raises(KeyboardInterrupt):
            lab.clean()
    assert not lab.work(0).exists()
    lab.clean()
    assert lab.bytes_of_models == size - 4 * SIZE
    assert lab.clean() == {}


def test_a_version_that_somebody_registered_elsewhere_stays(lab: Lab) -> None:
    client = MLflow.of(lab.settings).client()
    for week in range(2):
        lab.retrain(week)
    source = lab.registry.versions("prior")["1"].source
    client.create_registered_model("somebodys")
    client.create_model_version("somebodys", source)
    assert Kind.VERSIONS not in lab.clean()
    assert lab.registry.model("prior", "1").folder.joinpath("card.json").is_file()


def test_the_files_of_a_run_that_was_deleted_in_mlflow_go(lab: Lab, tmp_path: Path) -> None:
    client, experiment = MLflow.of(lab.settings).client(), MLflow.of(lab.settings).experiment_id()
    (tmp_path / "scores.json").write_text("{}")
    runs = [client.create_run(experiment) for _ in range(2)]
    for run in runs:
        client.log_artifact(run.info.run_id, str(tmp_path / "scores.json"))
    client.delete_run(runs[0].info.run_id)
    assert lab.clean(after=timedelta()) == {}
    assert lab.clean() == {Kind.DELETED_RUNS: 1}
    folders = lab.settings.mlflow_artifacts / lab.settings.workspace
    assert [path.parts[-3] for path in folders.rglob("scores.json")] == [runs[1].info.run_id]
    assert lab.clean() == {}


def test_a_pipeline_that_was_replaced_goes_and_one_with_an_alias_keeps_its_models(
    lab: Lab, tmp_path: Path
) -> None:
    (tmp_path / "MLmodel").write_text("{}")
    for week in range(4):
        lab.retrain(week, promoted=True)
        tags = {DIGEST_TAG: f"all{week}", "prior": f"week{week}"}
        number = lab.registry.add(PIPELINE, tmp_path, tags, "All champions together.")
        lab.registry.alias(PIPELINE, "somebodys" if week == 0 else CHAMPION, number)
    for week in range(4, 6):
        lab.retrain(week, promoted=True)
    by_hand = lab.registry.add(PIPELINE, tmp_path, {}, "By hand.")
    assert Kind.VERSIONS not in lab.clean(after=timedelta())  # all are young
    assert lab.clean()[Kind.VERSIONS] == 3  # two pipelines, and the prior of week 1
    assert set(lab.registry.versions(PIPELINE)) == {"1", "4", by_hand}
    assert lab.versions == {1, 3, 4, 5, 6}
    folder = Path(lab.registry.versions(PIPELINE)["1"].source.removeprefix("file://"))
    assert (folder / "MLmodel").is_file()
    assert lab.clean() == {}


def test_rows_that_somebody_may_miss_are_left_to_people(lab: Lab) -> None:
    lab.retrain(0)
    client, registry = MLflow.of(lab.settings).client(), lab.registry
    assert why_rows_stay(lab.settings, registry) == ""
    experiment = client.create_experiment("an experiment")
    client.delete_experiment(experiment)
    assert why_rows_stay(lab.settings, registry).endswith("whole: an experiment")
    client.restore_experiment(experiment)
    (model,), (version,) = registry.logged_models(), registry.versions("prior").values()
    client.delete_logged_model(model.model_id)
    assert why_rows_stay(lab.settings, registry).endswith(f": {version.name} {version.version}")
    registry.delete_version(version)
    assert why_rows_stay(lab.settings, registry) == ""
    shared = {"CORGI_HOME": str(lab.settings.home), "MLFLOW_TRACKING_URI": "http://mlflow:5001"}
    assert "others" in why_rows_stay(Settings.from_environment(shared), registry)


def _killed(*_: object) -> None:
    raise KeyboardInterrupt
