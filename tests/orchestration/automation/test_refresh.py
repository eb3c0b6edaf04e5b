"""A workspace is brought up to date by doing what is missing or changed, and nothing else."""

import io
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import pytest
from PIL import Image

from tests.helpers import forked
from tests.helpers.patience import PATIENCE
from tests.helpers.small import PNGS, png

ROOT = Path(__file__).parents[3]
HERE = str(Path(__file__).parents[3])
SERVER = f"""
import json, sys; sys.path.insert(0, {HERE!r})
from tests.helpers.watching import Done
from orchestration.cli.app import cli
from orchestration.definitions import build_definitions
from orchestration.resources.instance import open_instance
from orchestration.automation.refresh import Refresh
from orchestration.settings import Settings

ASSETS = ("raw_images", "images", "caption_subset")

def refreshed():
    done = Done()
    repository = build_definitions(settings).get_repository_def()
    refresh = Refresh(repository, instance, settings)
    steps = [step for step in refresh.all_steps() if step.asset.to_user_string() in ASSETS]
    assert refresh.run(steps, done) == len(done)
    return done

settings = Settings.from_environment()
instance = open_instance(settings)
for line in sys.stdin:
    words = json.loads(line)
    if words == ["refresh"]:
        answer = refreshed()
    elif words == ["slots"]:
        answer = instance.event_log_storage.get_concurrency_info("device").active_slot_count
    else:
        answer = cli(words, standalone_mode=False)
    print("ANSWER", json.dumps(answer), flush=True)
"""


def as_bmp(png: bytes) -> bytes:
    content = io.BytesIO()
    Image.open(io.BytesIO(png)).save(content, format="BMP")
    return content.getvalue()


class Project:
    """A folder of someone's own pictures, in a workspace of its own."""

    def __init__(self, folder: Path, ending: ExitStack) -> None:
        self.folder = folder
        self._ending = ending
        self.pictures = folder / "pictures"
        self.pictures.mkdir()
        for number, image in enumerate([*PNGS, png(6), png(7)]):
            self.add(number, image)

    def add(self, number: int, image: bytes) -> None:
        (self.pictures / f"{number}.png").write_bytes(image)
        with (self.pictures / "metadata.jsonl").open("a") as file:
            file.write(json.dumps({"file_name": f"{number}.png", "text": f"nr {number}"}) + "\n")

    @property
    def environment(self) -> dict[str, str]:
        mine = {
            "CORGI_HOME": str(self.folder / ".corgi"),
            "CORGI_DATA": str(self.folder / "data"),
            "CORGI_DATASET": "mine",
            "CORGI_DATA__TEST_FRACTION": "0.4",  # eight pictures: four are tested on …
            "CORGI_DATA__VALIDATION_FRACTION": "0.43",  # … two for validation, two to train on
        }
        return {**os.environ, **mine}

    def corgi(self, *words: str) -> subprocess.CompletedProcess[str]:
        return forked.run(forked.CORGI, words, self.environment, self.folder)

    @cached_property
    def _server(self) -> tuple[IO[str], IO[str]]:
        """One process for all refreshes of a test: its input and its output."""
        pipes = self.folder / "input", self.folder / "output"
        for pipe in pipes:
            os.mkfifo(pipe)
        log = self.folder / "server.log"
        server = forked.start(
            SERVER, [], self.environment, self.folder, pipes[1], log, stdin=pipes[0]
        )
        opened = pipes[0].open("w"), pipes[1].open()
        self._ending.callback(server.wait)
        for pipe in opened:
            self._ending.callback(pipe.close)
        return opened

    def ask(self, *words: str) -> Any:
        questions, answers = self._server
        questions.write(json.dumps(words) + "\n")
        questions.flush()
        for line in answers:
            if line.startswith("ANSWER "):
                return json.loads(line.removeprefix("ANSWER "))
        raise AssertionError(f"{words} failed: {(self.folder / 'server.log').read_text()}")

    def ingest(self) -> None:
        self.ask("ingest", str(self.pictures), "--format", "imagefolder", "--name", "mine")

    def refresh(self) -> dict[str, str]:
        return dict(self.ask("refresh"))


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with ExitStack() as ending:
        yield Project(tmp_path, ending)


def test_only_what_is_missing_or_changed_is_done(project: Project) -> None:
    project.ingest()
    subsets = [f"caption_subset {share}" for share in ("1.7%", "10%", "100%")]
    assert project.refresh() == dict.fromkeys(["raw_images", "images", *subsets], "missing")
    assert project.refresh() == {}

    (subset,) = project.folder.glob(".corgi/*/storage/caption_subset/10%/captions.json")
    subset.unlink()
    subset.parent.rmdir()
    assert project.refresh() == {"caption_subset 10%": "its files are gone"}

    project.ingest()  # the same data once more
    assert project.refresh() == {}

    # A picture again, in another file format: new raw data, which the gate refuses, so that
    # nothing is new behind the gate.
    project.add(8, as_bmp(PNGS[0]))
    project.ingest()
    done = project.refresh()
    assert done["raw_images"] == "the data have changed"
    assert "images" in done
    assert not set(done) & set(subsets)


def test_data_that_fail_the_gate_stop_with_a_sentence(project: Project) -> None:
    for path in project.pictures.glob("[2-9].png"):
        path.unlink()
    (project.pictures / "metadata.jsonl").unlink()
    (project.pictures / "1.png").write_bytes(PNGS[1][:60])  # torn: one good picture is left
    project.ingest()
    done = project.corgi("run", "--dataset", "mine")
    assert done.returncode == 2
    assert "images does not pass its checks" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    again = project.corgi("run", "--dataset", "mine")
    assert again.returncode == 2  # the gate stays shut


def test_a_killed_refresh_does_not_keep_the_device(project: Project) -> None:
    """A run that was killed holds the pool's one slot; the next refresh takes it back."""
    project.ingest()
    holding = """
import time, dagster as dg
from orchestration.resources.instance import open_instance
from orchestration.automation.refresh import TAG
from orchestration.settings import Settings
@dg.asset(pool="device")
def busy():
    time.sleep(60)
dg.materialize([busy], instance=open_instance(Settings.from_environment()), tags=TAG)
"""
    log = project.folder / "busy.log"
    child = forked.start(holding, [], project.environment, project.folder, log)
    until = time.monotonic() + PATIENCE
    while project.ask("slots") != 1:
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.1)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    assert project.ask("slots") == 1
    project.refresh()
    assert project.ask("slots") == 0
