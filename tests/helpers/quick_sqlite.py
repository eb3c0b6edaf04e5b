"""SQLite without waiting for the disk: tests kill processes, and what those wrote survives them."""

from __future__ import annotations

import sqlite3.dbapi2
from typing import Any


def spare_the_disk() -> None:
    """Let no connection that this process opens from now on flush what it commits to the disk."""
    connect = sqlite3.dbapi2.connect

    def connected(*arguments: Any, **named: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **named)
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    sqlite3.dbapi2.connect = connected  # type: ignore[assignment]  # where SQLAlchemy finds it
