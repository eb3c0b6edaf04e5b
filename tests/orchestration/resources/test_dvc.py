"""DVC and Dagster are two ways to the same data: each finds the other's work done."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from dvc.exceptions import DvcException

from corgi_core.data import quality
from corgi_core.data.dataset import Dataset, write_dataset
from corgi_core.errors import CorgiError
from orchestration.resources.dvc import DVC
from tests.helpers import forked
from tests.helpers.made import SETTINGS, samples
from tests.helpers.processes import free_port

ROOT = Path(__file__).parents[3]
HERE = str(Path(__file__).parents[3])
PRESET = "emoji-small"
REVISIONS = "corgi_core/data/revisions.py"
PRESET_FILES = [f"corgi_core/config/presets/{name}.yaml" for name in ("emoji", PRESET)]
REFRESH = f"""
import json, sys; sys.path.insert(0, {HERE!r})
from tests.helpers.watching import Done
from orchestration.definitions import build_definitions
from orchestration.resources.instance import open_instance
from orchestration.automation.refresh import RAW_DATA, Refresh
from orchestration.settings import Settings

settings = Settings.from_environment()
instance, done = open_instance(settings), Done()
refresh = Refresh(build_definitions(settings).get_repository_def(), instance, settings)
steps = [s for s in refresh.all_steps() if s.asset.to_user_string() in ("raw_images", "images")]
refresh.run(steps, done)
version = instance.get_latest_materialization_event(RAW_DATA).asset_materialization.tags
print(json.dumps([list(done), version["dagster/data_version"]]))
"""


class Project:
    """A copy of this repository's DVC project, for a small preset, with its own data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / ".dvc").mkdir()
        shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc")
        for name in ("dvc.yaml", ".dvcignore"):
            shutil.copy(ROOT / name, folder)
        (folder / "params.yaml").write_text(f"preset: {PRESET}\n")
        for read in (REVISIONS, *PRESET_FILES):  # what dvc.yaml takes parameters from
            (folder / read).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / read, folder / read)
        subprocess.run(["git", "init", "-q", "."], cwd=folder, check=True)

    @property
    def environment(self) -> dict[str, str]:
        mine = {"CORGI_PRESET": PRESET, "CORGI_HOME": str(self.folder / ".corgi")}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {**os.environ, "PATH": path, **mine}

    def dvc(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *words], cwd=self.folder, env=self.environment,
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def repro(self) -> list[str]:
        """The stages that `dvc repro` ran."""
        lines = self.dvc("repro").splitlines()
        return [line.split("'")[1] for line in lines if line.startswith("Running stage")]

    def status(self) -> dict[str, object]:
        """The stages that are stale."""
        return json.loads(self.dvc("status", "--json"))

    def refresh(self) -> tuple[list[str], str]:
        """The assets that were materialised, and the raw data's version in Dagster."""
        # Only the code under test is imported, not the copy that DVC watches.
        ended = forked.run(REFRESH, [], self.environment, self.folder)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        done, version = json.loads(ended.stdout.splitlines()[-1])
        return done, version

    @property
    def outputs(self) -> dict[str, str]:
        stages = yaml.safe_load((self.folder / "dvc.lock").read_text())["stages"]
        return {name: stage["outs"][0]["md5"] for name, stage in stages.items()}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_each_finds_the_others_work_done(project: Project) -> None:
    done, version = project.refresh()  # Dagster makes the data, and tells DVC
    assert done == ["raw_images", "images"]
    outputs = project.outputs
    assert version == outputs["ingest"]
    assert project.repro() == []

    shutil.rmtree(project.folder / "data")
    shutil.rmtree(project.folder / ".dvc" / "cache")  # which remembers runs, too
    (project.folder / "dvc.lock").unlink()
    assert project.repro() == ["ingest", "gate"]  # DVC makes the same, to the byte
    assert project.outputs == outputs
    assert project.refresh() == ([], version)

    shutil.rmtree(project.folder / ".corgi")
    manifest = project.folder / "data" / PRESET / "images" / "dataset.json"
    written = manifest.stat().st_mtime_ns
    assert project.refresh() == (["raw_images", "images"], version)  # new to Dagster, but
    assert manifest.stat().st_mtime_ns == written  # taken as they lie


def test_another_revision_or_setting_of_the_data_makes_them_stale_and_nothing_else_does(
    project: Project,
) -> None:
    assert project.repro() == ["ingest", "gate"]
    emoji, code = project.folder / PRESET_FILES[0], project.folder / REVISIONS
    emoji.write_text(emoji.read_text().replace("layers: 1 ", "layers: 2 "))  # of the prior
    code.write_text(code.read_text() + "\n# other code, the same revision\n")
    assert project.status() == {}
    another = re.sub(r"GATE_REVISION = (\d+)", r"GATE_REVISION = \g<1>0", code.read_text())
    code.write_text(another)
    assert project.status().keys() == {"gate"}
    emoji.write_text(emoji.read_text().replace("max_side: 1024", "max_side: 512"))
    assert project.status().keys() == {"ingest", "gate"}


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """DVC's, of a stage `ingest` whose output is in `data`; what it remembers stays in there."""
    return begin(tmp_path / "repository", tmp_path / "site", monkeypatch)


def begin(folder: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from dvc.repo import Repo

    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(site))
    Repo.init(no_scm=True).close()
    (folder / "data").mkdir()
    (folder / "data" / "one").write_text("bytes")
    (folder / "dvc.yaml").write_text("stages: {ingest: {cmd: 'true', outs: [data]}}")
    return folder


def refusal(stage: str = "ingest") -> CorgiError:
    with pytest.raises(CorgiError) as refused:
        DVC(enabled=True).commit(stage)
    return refused.value


def test_a_lock_that_is_taken_or_torn_is_named_with_what_to_do(repository: Path) -> None:
    from dvc.repo import Repo

    dvc, lock = DVC(enabled=True), repository / "dvc.lock"
    version = dvc.commit("ingest")
    with Repo(".") as busy, busy.lock:
        other = threading.Timer(0.5, lock.write_text, ["stages: {gate: {}}"])  # its holder's work
        other.start()
        said = refusal()
        other.join()
    assert lock.read_text() == "stages: {gate: {}}"
    assert "at work here" in said.problem
    assert "remove .dvc/tmp/lock" in said.remedy
    torn = {
        "<<<<<<< HEAD\nstages: {\n=======\n": "dvc.lock cannot be read",  # in a merge
        "": "dvc.lock cannot be read",  # by a power cut
    }
    for content, problem in torn.items():
        lock.write_text(content)
        with pytest.raises(CorgiError, match=problem):
            dvc.up_to_date("ingest")
    lock.unlink()
    assert dvc.commit("ingest") == version


def test_who_works_on_the_data_is_named_and_who_died_is_not_waited_for(repository: Path) -> None:
    dvc, record = DVC(enabled=True), repository / ".dvc" / "tmp" / "rwlock"
    with subprocess.Popen(["true"]) as dead:
        pass

    def at_work(pid: int) -> str:
        by = {"pid": pid, "cmd": "dvc repro"}
        return json.dumps({"write": {str(repository / "data"): by}, "read": {}})

    version = dvc.commit("ingest")
    before = (repository / "dvc.lock").read_bytes()
    (repository / "data" / "two").write_text("more")
    record.write_text(at_work(os.getppid()))
    said = refusal()
    assert f"(PID {os.getppid()}): dvc repro" in said.problem
    assert "\n" not in said.problem
    record.write_text('{"write": {')
    said = refusal()
    assert "is torn" in said.problem
    assert "remove .dvc/tmp/rwlock" in said.remedy
    assert (repository / "dvc.lock").read_bytes() == before
    record.write_text(at_work(dead.pid))
    assert dvc.commit("ingest") not in (None, version)
    assert dvc.up_to_date("ingest")


def test_a_remote_out_of_reach_stops_nothing(repository: Path) -> None:
    config = "[core]\n    no_scm = True\n    remote = far\n['remote \"far\"']\n    url = {}\n"
    dvc = DVC(enabled=True)
    for url in (f"http://127.0.0.1:{free_port()}/dvc", "s3://no-such-bucket/dvc"):
        (repository / ".dvc" / "config").write_text(config.format(url))
        (repository / "data" / "two").write_text(url)
        assert dvc.commit("ingest")
        assert dvc.up_to_date("ingest")


def test_a_shard_that_a_corrupt_remote_gave_is_found_by_its_bytes(
    repository: Path, tmp_path: Path
) -> None:
    """DVC takes it for whole: it trusts its remotes, unless they are said to `verify`."""
    from dvc.repo import Repo

    shutil.rmtree(repository / "data")
    made = write_dataset(repository / "data", samples(4), shard_size=2)
    dvc, remote = DVC(enabled=True), tmp_path / "remote"
    dvc.commit("ingest")
    with (repository / ".dvc" / "config").open("a") as config:
        config.write(f"    remote = near\n['remote \"near\"']\n    url = {remote}\n")
    with Repo(".") as pushing:
        pushing.push()
    shard = made.tar("00001").read_bytes()
    (stored,) = [p for p in remote.rglob("*") if p.is_file() and p.read_bytes() == shard]
    stored.chmod(0o644)
    stored.write_bytes(shard.replace(b"IDAT", b"IDAX", 1))

    def pull() -> None:
        for folder in (repository / "data", repository / ".dvc" / "cache", tmp_path / "site"):
            shutil.rmtree(folder, ignore_errors=True)
        with Repo(".") as pulling:
            pulling.pull()

    pull()
    assert dvc.up_to_date("ingest")
    with pytest.raises(CorgiError, match=r"00001\.tar is missing or damaged .the image 0002"):
        quality.gate(Dataset.load(repository / "data"), tmp_path / "gated", SETTINGS)
    with (repository / ".dvc" / "config").open("a") as config:
        config.write("    verify = true\n")
    with pytest.raises(DvcException):
        pull()
    assert not dvc.up_to_date("ingest")


def test_a_full_disk_is_named_and_leaves_the_lock_and_the_data(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = begin(small_disk / "repository", tmp_path / "site", monkeypatch)
    dvc, lock = DVC(enabled=True), repository / "dvc.lock"
    version = dvc.commit("ingest")
    before, big = lock.read_bytes(), os.urandom(600_000)
    (repository / "data" / "one").write_bytes(big)  # its copy in the cache finds no space
    for room in (True, False):  # … and there is some for dvc.lock, or none at all
        if not room:
            fill(small_disk / "more")
        said = refusal()
        assert "full" in said.problem or "could not store" in said.problem
        assert "free space" in said.remedy
        assert (repository / "data" / "one").read_bytes() == big
        assert lock.read_bytes() == before
        assert not list((repository / ".dvc" / "tmp").glob("*.before"))
    (small_disk / "more").unlink()
    (repository / "data" / "one").write_bytes(b"small")
    assert dvc.commit("ingest") not in (None, version)
    assert dvc.up_to_date("ingest")


def test_a_full_disk_of_its_records_ends_a_commit_that_would_try_for_ever(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC's copies of the data fill it, in the midst of the commit."""
    monkeypatch.setattr("orchestration.resources.dvc.PROBE_EVERY", 0.2)
    repository = begin(tmp_path / "repository", small_disk / "site", monkeypatch)
    with (repository / ".dvc" / "config").open("a") as config:
        config.write(f"[cache]\n    dir = {small_disk / 'cache'}\n")
    dvc, lock = DVC(enabled=True), repository / "dvc.lock"
    dvc.commit("ingest")
    before, problems = lock.read_bytes(), list[str]()
    for left in range(40_000, 240_000, 16_384):  # by the copies, until its records have room
        room = shutil.disk_usage(small_disk).free - left
        (repository / "data" / "one").write_bytes(os.urandom(room))
        try:
            dvc.commit("ingest")
        except CorgiError as error:
            problems.append(error.problem)
        else:
            break
        finally:
            shutil.rmtree(small_disk / "cache")
        assert lock.read_bytes() == before
    assert any(problem.endswith("its disk is full") for problem in problems)
    assert lock.read_bytes() != before


def fill(path: Path) -> None:
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass
