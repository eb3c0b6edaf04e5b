"""A backup holds each content once and whole databases; what is not whole is not restored."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import tarfile
import threading
from pathlib import Path

import dagster as dg
import pytest

from corgi_core.errors import CorgiError
from corgi_core.io.model_index import CHAMPION, PARTS, TextEncoderName
from corgi_core.pipeline import CorgiPipeline
from orchestration.cli.generate import load_pipeline
from orchestration.resources import backup
from orchestration.resources.backup import CONTENTS, INDEX, back_up, restore
from orchestration.resources.instance import open_instance
from orchestration.resources.model_registry import Registry
from orchestration.resources.tracking import MLflow
from orchestration.settings import Settings
from tests.helpers.tiny_pipeline import TOKENS


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A home with a database in use, a model that is there twice, and an unfinished training."""
    home = tmp_path / "home"
    for name in ("emoji/storage/prior", "mlflow/artifacts/prior", "emoji/work/prior"):
        (home / name).mkdir(parents=True)
        (home / name / "model.safetensors").write_bytes(b"weights" * 1000)
    home.chmod(0o755)
    (home / "emoji" / "empty").touch()
    (home / "emoji" / "secret").write_text("s")
    (home / "emoji" / "secret").chmod(0o600)
    with sqlite3.connect(home / "mlflow" / "mlflow.db") as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE runs (number INTEGER)")
    return Settings.from_environment({"CORGI_HOME": str(home)})


def listing(home: Path) -> dict[str, tuple[bytes, int, int]]:
    return {
        str(path.relative_to(home)): (
            path.read_bytes(),
            path.stat().st_mode,
            path.stat().st_mtime_ns,
        )
        for path in home.rglob("*")
        if path.is_file() and "mlflow.db" not in path.name and "work" not in path.parts
    }


def rows(home: Path) -> list[int]:
    with sqlite3.connect(home / "mlflow" / "mlflow.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return [number for (number,) in database.execute("SELECT number FROM runs ORDER BY 1")]


def test_a_home_comes_back_as_it_was_while_a_writer_went_on(
    settings: Settings, tmp_path: Path
) -> None:
    stop, written = threading.Event(), [0]

    def write() -> None:
        with sqlite3.connect(settings.home / "mlflow" / "mlflow.db") as database:
            while not stop.is_set():
                database.execute("INSERT INTO runs VALUES (?)", (written[0],))
                database.commit()
                written[0] += 1

    writer = threading.Thread(target=write)
    writer.start()
    while written[0] < 20:
        pass
    before = written[0]
    index = back_up(settings, tmp_path / "backup.tar")
    stop.set()
    writer.join()
    files = listing(settings.home)
    settings.home.rename(tmp_path / "gone")
    restore(settings, tmp_path / "backup.tar")
    assert settings.home.stat().st_mode & 0o777 == 0o755
    assert listing(settings.home) == files
    found = rows(settings.home)
    assert found == list(range(len(found)))  # whole transactions, in their order
    assert len(found) >= before
    assert not (settings.home / "emoji" / "work").exists()
    weights = [digest for name, (digest, *_) in index.files.items() if "safetensors" in name]
    assert len(weights) == 2
    with tarfile.open(tmp_path / "backup.tar") as tar:
        assert tar.getnames().count(f"{CONTENTS}/{weights[0]}") == 1
    assert not list(tmp_path.glob("home-restored-*"))


def changed(path: Path, **index: object) -> Path:
    """A copy of a backup in which the index says something else."""
    with tarfile.open(path) as tar:
        tar.extractall(folder := path.with_name("opened"), filter="data")
    content = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps(content | index))
    other = path.with_name("other.tar")
    with tarfile.open(other, "w") as tar:
        for each in sorted(folder.rglob("*")):
            tar.add(each, str(each.relative_to(folder)), recursive=False)
    shutil.rmtree(folder)
    return other


def refusal(settings: Settings, path: Path) -> str:
    """What a restore is refused with; nothing is there afterwards that was not before."""
    before = sorted(settings.home.parent.iterdir())
    with pytest.raises(CorgiError) as refused:
        restore(settings, path)
    assert sorted(settings.home.parent.iterdir()) == before
    return str(refused.value)


def test_what_is_not_whole_or_not_ours_is_refused(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "backup.tar"
    index = back_up(settings, path)
    assert "there already" in refusal(settings, path)
    settings.home.rename(tmp_path / "gone")
    settings.home.mkdir()
    with pytest.MonkeyPatch.context() as changing:
        changing.setattr(Path, "is_mount", lambda path: path == settings.home)
        assert "a disk of its own" in refusal(settings, path)
    settings.home.rmdir()
    assert "there is no file" in refusal(settings, tmp_path / "missing.tar")
    (tmp_path / "text").write_text("no tar")
    assert "cannot be read" in refusal(settings, tmp_path / "text")
    assert "another version" in refusal(settings, changed(path, format=2))
    assert "CORGI_HOME=/elsewhere" in refusal(settings, changed(path, home="/elsewhere"))
    digest = index.files["emoji/secret"][0]
    outside = {"../outside": (digest, 0, 0o600)}
    assert "outside of the home" in refusal(settings, changed(path, files=outside))
    absent = {"emoji/secret": ("0" * 64, 0, 0o600)}
    assert "damaged" in refusal(settings, changed(path, files=absent))
    whole = path.read_bytes()
    position = whole.index(b"weightsweights") + 70
    path.write_bytes(whole[:position] + b"W" + whole[position + 1 :])
    assert "damaged" in refusal(settings, path)
    path.write_bytes(whole[:position])  # where the disk was full
    assert "cannot be read" in refusal(settings, path)


def test_logs_that_are_written_to_meanwhile_are_stored_as_they_were_read(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One grows and one is begun anew, while an entry of the tar is being made."""
    grows, shrinks = settings.home / "emoji" / "corgi.log", settings.home / "emoji" / "daemon.log"
    first = {grows: b"a line\n", shrinks: b"a long line\n"}
    for log, content in first.items():
        log.write_bytes(content)

    def entry(name: str) -> tarfile.TarInfo:
        with grows.open("ab") as file:
            file.write(b"more\n")
        shrinks.write_bytes(b"")
        return made(name)

    made = tarfile.TarInfo
    with monkeypatch.context() as changing:
        changing.setattr(tarfile, "TarInfo", entry)
        index = back_up(settings, tmp_path / "backup.tar")
    settings.home.rename(tmp_path / "gone")
    restore(settings, tmp_path / "backup.tar")
    for log in first:
        digest = hashlib.sha256(log.read_bytes()).hexdigest()
        assert index.files[log.relative_to(settings.home).as_posix()][0] == digest


class Postgres:
    """Databases with the numbers of their tables, behind the words of PostgreSQL's programs."""

    def __init__(self, **tables: int) -> None:
        self.tables, self.full_disk = tables, False

    def __call__(self, program: str, *words: str) -> str:
        (url,) = (word for word in words if "postgresql://" in word)
        name = url.rpartition("/")[2]
        if program == "psql":
            return f"{self.tables[name]}\n"
        if program == "pg_dump":
            dump = next(word for word in words if word.startswith("--file="))
            Path(dump.removeprefix("--file=")).write_text(f"{name} {self.tables[name]}")
        elif self.full_disk and name == "mlflow":
            raise CorgiError("pg_restore failed: no space", "see to the database, and try again")
        else:
            self.tables[name] = int(Path(words[-1]).read_text().split()[1])
        return ""


def test_databases_are_filled_together_or_the_error_names_what_to_make_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    path, servers = tmp_path / "backup.tar", Postgres(dagster=5, mlflow=7)
    monkeypatch.setattr(backup, "_client", servers)
    given = {
        "CORGI_HOME": str(tmp_path / "home"),
        "CORGI_DATABASE_URL": "postgresql://corgi@db/dagster",
        "MLFLOW_TRACKING_URI": "postgresql://corgi@db/mlflow",
    }
    settings = Settings.from_environment(given)
    back_up(settings, path)
    settings.home.rmdir()
    servers.tables = {"dagster": 0, "mlflow": 1}
    assert "mlflow has 1 tables already" in refusal(settings, path)
    assert servers.tables == {"dagster": 0, "mlflow": 1}
    servers.tables, servers.full_disk = {"dagster": 0, "mlflow": 0}, True
    assert "create dagster anew first" in refusal(settings, path)
    servers.tables, servers.full_disk = {"dagster": 0, "mlflow": 0}, False
    restore(settings, path)
    assert servers.tables == {"dagster": 5, "mlflow": 7}

    servers.tables = {"dagster": 0, "mlflow": 0}
    settings.home.rmdir()
    home = {"CORGI_HOME": given["CORGI_HOME"]}
    one = home | {"CORGI_DATABASE_URL": given["CORGI_DATABASE_URL"]}
    assert "an empty one by CORGI_MLFLOW_DATABASE" in refusal(Settings.from_environment(one), path)
    assert "none to load it into is named" in refusal(Settings.from_environment(home), path)
    settings.home.mkdir()
    servers.tables = {"dagster": 5, "mlflow": 7}

    served = {"MLFLOW_TRACKING_URI": "http://mlflow:5001"}
    settings = Settings.from_environment(given | served)
    assert "that server's database" in " ".join(back_up(settings, path).elsewhere)
    served["CORGI_MLFLOW_DATABASE_URL"] = given["MLFLOW_TRACKING_URI"]
    settings = Settings.from_environment(given | served)
    index = back_up(settings, path)
    assert list(index.databases) == ["dagster", "mlflow"]
    assert "that server's database" not in " ".join(index.elsewhere)
    assert "http://mlflow:5001" in " ".join(index.elsewhere)

    shared = Settings.from_environment(given | {"MLFLOW_TRACKING_URI": given["CORGI_DATABASE_URL"]})
    assert list(back_up(shared, path).databases) == ["dagster"]
    settings.home.rmdir()
    servers.tables = {"dagster": 0}
    restore(shared, path)
    assert servers.tables == {"dagster": 5}


def test_what_lies_outside_of_the_home_is_named(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert str(settings.home) not in " ".join(back_up(settings, tmp_path / "backup.tar").elsewhere)
    outside = {
        "CORGI_HOME": str(settings.home), "CORGI_STORAGE": str(tmp_path / "artefacts"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'other.db'}",
    }  # fmt: skip
    monkeypatch.setattr(Settings, "under_dvc", True)
    index = back_up(Settings.from_environment(outside), tmp_path / "backup.tar")
    named = " ".join(index.elsewhere)
    for path in (tmp_path / "artefacts", tmp_path / "other.db", Path("reports").absolute()):
        assert str(path) in named


def test_a_backup_lies_outside_of_the_home_and_of_something(
    settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(CorgiError, match="another disk"):
        back_up(settings, settings.home / "backup.tar")
    nothing = Settings.from_environment({"CORGI_HOME": str(tmp_path / "none")})
    with pytest.raises(CorgiError, match="there is no"):
        back_up(nothing, tmp_path / "backup.tar")


def test_a_restored_workspace_generates_the_same_picture_and_shows_the_same_runs(
    pipeline: CorgiPipeline, tmp_path: Path
) -> None:
    settings = Settings.from_environment(
        {"CORGI_HOME": str(tmp_path / "home"), "CORGI_PRESET": "emoji-small"}
    )
    registry = Registry(mlflow := MLflow.of(settings))
    for part in PARTS:
        version = registry.register(part, getattr(pipeline, part), {}, "tiny")
        registry.alias(part, CHAMPION, version)
    registry.write_index(TextEncoderName("minilm", TOKENS))
    mlflow.client().create_run(mlflow.experiment_id(), run_name="the run")
    with open_instance(settings) as instance:
        instance.report_runless_asset_event(dg.AssetMaterialization("prior", partition="10%"))

    def picture() -> bytes:
        loaded = load_pipeline(settings, None, None)
        (image,) = loaded.text_to_image("a cat", seed=3, num_steps=2)
        return image.tobytes()

    def history() -> list[object]:
        """What MLflow's database and Dagster's say, asked anew."""
        with sqlite3.connect(settings.home / "mlflow" / "mlflow.db") as database:
            runs = database.execute("SELECT run_uuid, name, artifact_uri FROM runs").fetchall()
        with open_instance(settings) as instance:
            found = instance.fetch_materializations(dg.AssetKey("prior"), limit=9).records
        return [runs, [(each.partition_key, each.timestamp) for each in found]]

    before = picture(), history()
    back_up(settings, tmp_path / "backup.tar")
    shutil.rmtree(settings.home)
    with pytest.raises(CorgiError, match="nor a workspace"):
        picture()
    restore(settings, tmp_path / "backup.tar")
    assert (picture(), history()) == before
    assert [len(found) for found in before[1]] == [4, 1]  # a run a model, and the one here
