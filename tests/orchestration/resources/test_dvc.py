"""DVC and Dagster are two ways to the same data: each finds the other's work done."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from corgi_core.errors import CorgiError
from orchestration.resources.dvc import DVC
from tests.helpers import forked

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


def test_a_lock_of_dvc_that_is_taken_or_torn_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dvc.repo import Repo

    monkeypatch.chdir(tmp_path)
    Repo.init(no_scm=True).close()
    (tmp_path / "data").write_text("bytes")
    (tmp_path / "dvc.yaml").write_text("stages: {ingest: {cmd: 'true', outs: [data]}}")
    dvc = DVC(enabled=True)
    (tmp_path / "dvc.lock").write_text("stages: {ingest: {outs: [{md5: a}]}}")
    with Repo(".") as busy, busy.lock, pytest.raises(CorgiError, match="at work here") as refused:
        dvc.commit("ingest")
    assert "remove .dvc/tmp/lock" in refused.value.remedy
    (tmp_path / "dvc.lock").write_text("<<<<<<< HEAD\nstages: {\n=======\n")
    with pytest.raises(CorgiError, match=r"dvc\.lock cannot be read"):
        dvc.up_to_date("ingest")
