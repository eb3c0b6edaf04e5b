"""One tiny generator for all tests."""

from __future__ import annotations

import pytest
from tiny_generator import tiny_generator

from corgi_core.generate import Generator


@pytest.fixture(scope="session")
def generator() -> Generator:
    return tiny_generator()
