"""The metrics log: torn lines, resumption, and followers that fail."""

from __future__ import annotations

import time
from pathlib import Path

from corgi_core.training.metrics_log import MetricsFollower, MetricsLog, MetricsReader, read_metrics


def test_a_torn_line_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    reader = MetricsReader(path)
    assert reader.new_entries() == []
    path.write_text('{"step": 1}\n{"step": 2')
    assert reader.new_entries() == [{"step": 1}]
    with path.open("a") as file:
        file.write(', "loss": 0.5}\n')
    assert reader.new_entries() == [{"step": 2, "loss": 0.5}]
    assert reader.new_entries() == []


def test_resuming_cuts_the_metrics_log_and_readers_get_nothing_twice(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics_log, reader = MetricsLog(path, step=0), MetricsReader(path)
    for step in (10, 20, 30):
        metrics_log.write({"step": step})
    assert [entry["step"] for entry in reader.new_entries()] == [10, 20, 30]
    with path.open("a") as file:
        file.write('{"step": 40, "lo')  # killed here
    resumed = MetricsLog(path, step=20)
    assert [entry["step"] for entry in read_metrics(path)] == [10, 20]
    for step in (30, 40, 50):
        resumed.write({"step": step})
    assert [entry["step"] for entry in reader.new_entries()] == [40, 50]
    assert [entry["step"] for entry in read_metrics(path)] == [10, 20, 30, 40, 50]


def test_a_follower_that_fails_loses_nothing(tmp_path: Path) -> None:
    metrics_log = MetricsLog(tmp_path / "metrics.jsonl", step=0)
    got: list[int] = []
    offered: list[int] = []

    def server(entry: dict[str, int]) -> None:
        offered.append(entry["step"])
        if 3 <= len(offered) < 6:
            raise ConnectionError("down")
        got.append(entry["step"])

    with MetricsFollower(metrics_log.path, server, interval=0.01) as following:
        for step in range(1, 11):
            metrics_log.write({"step": step})
        deadline = time.monotonic() + 20
        while len(got) < 10 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert got == list(range(1, 11))
    assert following.undelivered == 0
    assert offered.count(3) == 4


def test_leaving_delivers_the_rest_and_counts_what_stays(tmp_path: Path) -> None:
    metrics_log = MetricsLog(tmp_path / "metrics.jsonl", step=0)
    got: list[int] = []
    with MetricsFollower(
        metrics_log.path, lambda entry: got.append(entry["step"]), interval=60
    ) as following:
        metrics_log.write({"step": 1})
    assert got == [1]
    assert following.undelivered == 0

    def dead(entry: dict[str, int]) -> None:
        raise ConnectionError("down")

    with MetricsFollower(metrics_log.path, dead, interval=0.01) as following:
        metrics_log.write({"step": 2})
    assert following.undelivered == 2
