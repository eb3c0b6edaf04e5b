"""Messages to a service that may be slow or down: on disk, delivered in order, in background.

The sender never waits and never fails. What could not be delivered stays on disk, and a later
process delivers it. A message may therefore arrive twice; receivers must take it the same. What the
service refuses for good is left out with a warning, so that it holds up nothing behind it.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Any

from corgi_core.io.files import atomic_file
from corgi_core.io.locks import LockHeldError, exclusive_lock

Message = dict[str, Any]
Deliver = Callable[[Message], None]
LastWords = Callable[[Sequence[Message], int], list[Message]]

FIRST_RETRY, LONGEST_RETRY = 1.0, 30.0  # seconds
log = logging.getLogger(__name__)


class UndeliverableError(Exception):
    """The service refuses a message, and would refuse it again."""


class Outbox:
    """One file of messages, one a line, removed once all are delivered.

    A lock file beside it is held while the process lives, so that `deliver_left_over` in another
    process leaves the messages alone.
    """

    def __init__(self, path: Path, deliver: Deliver) -> None:
        self.path = path
        self._deliver = deliver
        path.parent.mkdir(parents=True, exist_ok=True)
        self._open = ExitStack()
        self._open.enter_context(_lock(path))
        self._file = self._open.enter_context(path.open("a", encoding="utf-8"))
        self._waiting: list[Message] = []
        self._changed = threading.Condition()
        self._failing = self._closing = False
        self._thread = threading.Thread(target=self._work, name=path.stem, daemon=True)
        self._thread.start()

    def put(self, message: Message) -> None:
        """Store `message` on disk and deliver it soon; from memory where the disk is full."""
        try:
            self._file.write(json.dumps(message) + "\n")
            self._file.flush()
        except OSError as error:
            log.warning("a message of %s is in memory alone: %s", self.path.stem, error)
        with self._changed:
            self._waiting.append(message)
            self._changed.notify_all()

    def close(self, patience: float) -> bool:
        """Wait at most `patience` seconds for the rest, less if the service is failing.

        Returns whether all was delivered. What was not is left to `deliver_left_over`.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._waiting or self._failing, timeout=patience)
            delivered = not self._waiting
        if delivered:
            _remove(self.path)
        with suppress(OSError):  # of messages that the disk did not take
            self._open.close()
        return delivered

    def _work(self) -> None:
        pause = FIRST_RETRY
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting or (self._closing and self._failing):
                    return
                message = self._waiting[0]
            try:
                _deliver_or_drop(self._deliver, message)
            except Exception as error:
                log.warning("%s is not delivered yet: %s", self.path.stem, error)
                with self._changed:
                    self._failing = True
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._closing, timeout=pause)
                pause = min(2 * pause, LONGEST_RETRY)
                continue
            pause = FIRST_RETRY
            with self._changed:
                self._failing = False
                self._waiting.pop(0)
                self._changed.notify_all()


def deliver_left_over(
    folder: Path,
    receiver: Callable[[], Deliver],
    last_words: LastWords = lambda messages, moment: [],
    patience: float = 60,
) -> int:
    """Deliver what dead processes left in `folder`, the oldest file first.

    A file that fails holds up no other one. What is not delivered stays for the next call.

    Args:
        folder: Of the outboxes' files.
        receiver: Makes the receiver of one file's messages.
        last_words: What a process did not come to say, by its messages and the time of the last
            one, in milliseconds.
        patience: After so many seconds no further message is sent.

    Returns:
        The number of files that were delivered whole.
    """
    delivered, until = 0, time.monotonic() + patience
    for path in sorted(folder.glob("*.jsonl"), key=_modified):
        if time.monotonic() > until:
            break
        try:
            with _lock(path):
                if path.exists():  # or another process was quicker
                    delivered += _deliver_file(path, receiver(), last_words, until)
        except LockHeldError:
            continue
        except Exception as error:
            log.warning("%s is not delivered yet: %s", path.stem, error)
    return delivered


def _deliver_file(path: Path, deliver: Deliver, last_words: LastWords, until: float) -> bool:
    """Deliver a file's messages; the rest stays, behind the first, which the rest depends on."""
    messages = list(_whole_lines(path))
    messages += last_words(messages, _modified(path))
    done = 0
    try:
        while done < len(messages) and time.monotonic() <= until:
            _deliver_or_drop(deliver, messages[done])
            done += 1
    finally:
        if done == len(messages):
            _remove(path)
        elif done > 1:
            with atomic_file(path) as temporary:
                rest = [messages[0], *messages[done:]]
                temporary.write_text("".join(json.dumps(each) + "\n" for each in rest), "utf-8")
    return done == len(messages)


def _modified(path: Path) -> int:
    """When a file was written last, in milliseconds; 0 where it is gone."""
    return path.stat().st_mtime_ns // 10**6 if path.exists() else 0


def _deliver_or_drop(deliver: Deliver, message: Message) -> None:
    try:
        deliver(message)
    except UndeliverableError as error:
        log.warning("a message is left out: %s", error)


def _lock(path: Path) -> AbstractContextManager[None]:
    return exclusive_lock(path.with_suffix(".lock"), f"the messages in {path} are being delivered")


def _remove(path: Path) -> None:
    """Remove the messages, then their lock: a lock alone means that nothing is left to deliver."""
    path.unlink(missing_ok=True)
    path.with_suffix(".lock").unlink(missing_ok=True)


def _whole_lines(path: Path) -> Iterator[Message]:
    """The messages that a file has; what a power cut or a full disk left of others is no line."""
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):  # a killed process may leave half a line
                continue
            try:
                message = json.loads(line)
                if not isinstance(message, dict):
                    raise TypeError(f"{type(message).__name__} in place of a message")
            except (ValueError, TypeError) as error:
                log.warning("a line of %s is no message, and is left out: %s", path.stem, error)
            else:
                yield message
