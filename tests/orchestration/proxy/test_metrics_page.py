"""/metrics says what Dagster's instance and the trainings' logs say, in Prometheus' format."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import dagster as dg
import pytest

from orchestration.proxy.metrics import exposition
from orchestration.proxy.server import ByPort, proxied
from orchestration.resources.instance import open_instance
from orchestration.resources.trainer import DEVICE
from orchestration.settings import Settings
from tests.helpers.processes import free_port
from tests.helpers.serving import ask, serving_page

LINE = re.compile(r'(?P<name>[a-z_]+)\{(?P<labels>([a-z]+="([^"\\]|\\.)*",?)*)\} (?P<value>\S+)')


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    environment = {"CORGI_HOME": str(tmp_path / "home"), "CORGI_PRESET": "emoji-small"}
    return Settings.from_environment(environment)


def parsed(text: str) -> dict[tuple[str, str], float]:
    """The samples by metric and labels; each line is of the format."""
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            match = LINE.fullmatch(line)
            assert match, line
            found[match["name"], match["labels"]] = float(match["value"])
            assert f"# TYPE {match['name']} gauge\n" in text
    return found


def training(settings: Settings, where: str, *entries: dict[str, float] | str, age: float) -> None:
    path = settings.work / where / "0123abc" / "metrics.jsonl"
    path.parent.mkdir(parents=True)
    lines = [each if isinstance(each, str) else json.dumps(each) + "\n" for each in entries]
    path.write_text("".join(lines))
    os.utime(path, (time.time() - age,) * 2)


def test_the_queue_the_device_and_trainings_are_there(settings: Settings) -> None:
    @dg.asset
    def fine() -> None: ...

    @dg.asset
    def broken() -> None:
        raise ValueError

    with open_instance(settings) as instance:
        dg.materialize([fine], instance=instance)
        dg.materialize([broken], instance=instance, raise_on_error=False)
        storage = instance.event_log_storage
        storage.initialize_concurrency_limit_to_default(DEVICE)
        for number in ("one", "two"):  # of which the pool has room for one
            storage.claim_concurrency_slot(DEVICE, number, "prior")
    fast = {"step": 200, "loss": 0.25, "samples_per_second": 5120.5}
    training(settings, "prior/10%/shifted-k16", {"step": 100, "loss": 1.0}, fast, '{"st', age=5)
    training(settings, "decoder/pca", {"step": 9}, age=3600)  # has ended
    found = parsed(exposition(settings))
    assert found["corgi_runs", 'status="success"'] == 1
    assert found["corgi_runs", 'status="failure"'] == 1
    assert found["corgi_runs", 'status="queued"'] == 0
    device = f'pool="{DEVICE}"'
    assert [found[f"corgi_pool_{name}", device] for name in ("slots", "used", "waiting")] == [
        1,
        1,
        1,
    ]
    label = 'training="prior/10%/shifted-k16"'
    assert found["corgi_training_step", label] == 200
    assert found["corgi_training_loss", label] == 0.25
    assert found["corgi_training_samples_per_second", label] == 5120.5
    assert not any("decoder" in labels for _, labels in found)


def test_a_training_that_ends_meanwhile_is_left_out(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder is removed after it was found."""
    with open_instance(settings):
        training(settings, "prior/10%/baseline", {"step": 1}, age=5)
        training(settings, "prior/10%/shifted-k16", {"step": 2}, age=5)

    def found_then_removed(folder: Path, pattern: str) -> list[Path]:
        paths = sorted(found(folder, pattern))
        paths[0].unlink()
        return paths

    found = Path.glob
    monkeypatch.setattr(Path, "glob", found_then_removed)
    steps = [labels for name, labels in parsed(exposition(settings)) if "training_step" in name]
    assert steps == ['training="prior/10%/shifted-k16"']


def test_the_page_is_behind_the_guard_and_before_anything_has_run(settings: Settings) -> None:
    upstream = f"http://127.0.0.1:{free_port()}"
    page = proxied(settings, upstream, None)[settings.dagster_port]
    with serving_page(lambda port: ByPort({port: page})) as port:
        status, text = ask(port, "/metrics")
        assert (status, parsed(text)) == (200, {})
        assert ask(port, "/metrics", headers={"Host": "evil.example"})[0] == 403
        assert ask(port, "/metricss")[0] == 502  # is Dagster's
