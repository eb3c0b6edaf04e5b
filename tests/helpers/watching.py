"""A watcher of refreshes, for tests and for the programs that they start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Done(dict[str, str]):
    """The titles of the steps that were done, and why."""

    def unchanged(self, title: str) -> None:
        pass

    @contextmanager
    def doing(self, title: str, reason: str) -> Iterator[None]:
        yield
        self[title] = reason
