"""Where tests of files and folders write: on a disk, and on what behaves as an object store."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from upath import UPath


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> UPath:
    return UPath(tmp_path) if request.param == "local" else UPath(f"memory://{uuid.uuid4().hex}")
