"""The outbox keeps what a slow or dead service does not take, across processes and kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestration.resources import outbox
from orchestration.resources.moments import LATEST, moment_in
from orchestration.resources.outbox import Message, Outbox, deliver_left_over
from tests.helpers.tiny import fill_disk


class Service:
    """Takes messages, unless it is down."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.down = False

    def __call__(self, message: Message) -> None:
        if self.down:
            raise ConnectionError("down")
        self.taken.append(message["n"])


def test_messages_arrive_in_order_and_leave_no_file(tmp_path: Path) -> None:
    service = Service()
    box = Outbox(tmp_path / "a.jsonl", service)
    for n in range(50):
        box.put({"n": n})
    assert box.close(patience=5)
    assert service.taken == list(range(50))
    assert not list(tmp_path.iterdir())


def test_a_service_that_comes_back_gets_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "FIRST_RETRY", 0.05)
    service = Service()
    service.down = True
    box = Outbox(tmp_path / "a.jsonl", service)
    for n in range(5):
        box.put({"n": n})
    time.sleep(0.2)
    service.down = False
    until = time.monotonic() + 5
    while len(service.taken) < 5 and time.monotonic() < until:
        time.sleep(0.01)
    assert box.close(patience=5)
    assert service.taken == [0, 1, 2, 3, 4]


def test_a_dead_service_costs_no_time_and_loses_nothing(tmp_path: Path) -> None:
    service = Service()
    service.down = True
    began = time.monotonic()
    box = Outbox(tmp_path / "a.jsonl", service)
    for n in range(1000):
        box.put({"n": n})
    assert not box.close(patience=60)
    assert time.monotonic() - began < 5
    service.down = False
    assert deliver_left_over(tmp_path, lambda: service) == 1
    assert service.taken == list(range(1000))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_holds_up_no_message(small_disk: Path) -> None:
    service = Service()
    box = Outbox(small_disk / "a.jsonl", service)
    fill_disk(small_disk / "ballast", left=0)
    for n in range(500):
        box.put({"n": n, "text": 50 * "x"})
    assert box.close(patience=5)
    assert service.taken == list(range(500))


def test_a_slow_service_does_not_hold_up_the_sender(tmp_path: Path) -> None:
    release = threading.Event()
    box = Outbox(tmp_path / "a.jsonl", lambda message: release.wait(10) and None)
    began = time.monotonic()
    for n in range(100):
        box.put({"n": n})
    assert time.monotonic() - began < 1
    assert not box.close(patience=0.2)
    release.set()


def test_a_killed_process_leaves_its_messages_and_a_living_one_keeps_its_own(
    tmp_path: Path,
) -> None:
    program = textwrap.dedent(
        f"""
        import time
        from pathlib import Path
        from orchestration.resources.outbox import Outbox
        def down(message): raise ConnectionError("down")
        box = Outbox(Path({str(tmp_path)!r}) / "a.jsonl", down)
        for n in range(3): box.put({{"n": n}})
        print("ready", flush=True)
        time.sleep(60)
        """
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stdout.readline() == b"ready\n"
        service = Service()
        assert deliver_left_over(tmp_path, lambda: service) == 0  # it is alive: hands off
        os.kill(child.pid, signal.SIGKILL)
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write(json.dumps({"n": 3})[:-2])  # and it was killed in the middle of a line
    assert deliver_left_over(tmp_path, lambda: service) == 1
    assert service.taken == [0, 1, 2]


def leave(path: Path, *messages: Message) -> None:
    """What a dead process leaves."""
    path.write_text("".join(json.dumps(message) + "\n" for message in messages))


def test_a_slow_service_gets_all_in_several_calls_each_behind_the_first_message(
    tmp_path: Path,
) -> None:
    leave(tmp_path / "a.jsonl", *({"n": n} for n in range(7)))
    taken: list[list[int]] = []

    def receiver() -> Callable[[Message], None]:
        taken.append([])

        def slow(message: Message) -> None:
            taken[-1].append(message["n"])
            time.sleep(0.02 * (len(taken[-1]) == 3))

        return slow

    delivered = 0
    while not delivered and len(taken) < 9:
        delivered = deliver_left_over(tmp_path, receiver, patience=0.015)
    assert len(taken) >= 3
    assert all(each[0] == 0 for each in taken)
    assert [n for each in taken for n in each[1:]] == [1, 2, 3, 4, 5, 6]
    assert not list(tmp_path.iterdir())


def test_a_file_that_fails_holds_up_no_other_and_goes_on_where_it_was(tmp_path: Path) -> None:
    service, refused = Service(), {1}

    def deliver(message: Message) -> None:
        if message["n"] in refused:
            raise ConnectionError("not this one")
        service(message)

    leave(tmp_path / "a.jsonl", {"n": -1}, {"n": 0}, {"n": 1}, {"n": 2})
    os.utime(tmp_path / "a.jsonl", (1, 1))
    leave(tmp_path / "b.jsonl", {"n": 3}, {"n": 4})
    assert deliver_left_over(tmp_path, lambda: deliver) == 1
    assert service.taken == [-1, 0, 3, 4]
    refused.clear()
    assert deliver_left_over(tmp_path, lambda: deliver) == 1
    assert service.taken[4:] == [-1, 1, 2]


def test_what_a_dead_process_did_not_come_to_say_is_said(tmp_path: Path) -> None:
    service = Service()
    leave(tmp_path / "a.jsonl", {"n": 0})
    os.utime(tmp_path / "a.jsonl", (7, 7))

    def last_words(messages: Sequence[Message], moment: int) -> list[Message]:
        return [{"n": len(messages)}, {"n": moment}]

    assert deliver_left_over(tmp_path, lambda: service, last_words) == 1
    assert service.taken == [0, 1, 7000]


def test_lines_that_are_no_messages_hold_up_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Zeros of a power cut, half a line of a full disk, bytes that are no text, other JSON."""
    service = Service()
    broken = [b"\0" * 9, b'{"n": 1{"n": 2}', b'{"n": "\xff"}', b"7", b'["n"]']
    (tmp_path / "a.jsonl").write_bytes(b'{"n": 0}\n' + b"\n".join(broken) + b'\n{"n": 3}\n')
    assert deliver_left_over(tmp_path, lambda: service) == 1
    assert service.taken == [0, 3]
    assert not list(tmp_path.iterdir())
    assert caplog.text.count("a line of a is no message") == len(broken)


def test_moments_never_go_back_with_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 40.0, 40.0, 200.0])
    monkeypatch.setattr("orchestration.resources.moments.time.time", lambda: next(clock))
    assert [moment_in(tmp_path) for _ in range(4)] == [100_000, 100_001, 100_002, 200_000]


def test_a_clock_that_was_days_ahead_once_and_an_emptied_file_do_not_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = iter([100.0, 10 * 86400.0, 200.0, 90.0])
    ours = SimpleNamespace(time=lambda: next(clock))  # the log asks the real one
    monkeypatch.setattr("orchestration.resources.moments.time", ours)
    moments = [moment_in(tmp_path) for _ in range(3)]
    assert moments == [100_000, 864_000_000, 200_000]
    assert "the clock was ahead by days" in caplog.text
    (tmp_path / LATEST).write_text("")
    assert moment_in(tmp_path) == 90_000
