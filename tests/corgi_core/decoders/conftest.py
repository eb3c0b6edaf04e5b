"""A decoder trained once for all tests, by the shared loop, until it knows the shapes."""

from __future__ import annotations

import pytest

from corgi_core.decoders.components.decoder import ComponentsDecoder
from corgi_core.decoders.components.task import ComponentsTask
from corgi_core.training.loop import train
from tests.helpers.shapes import a_task


@pytest.fixture(scope="session")
def task(tmp_path_factory: pytest.TempPathFactory) -> ComponentsTask:
    return a_task(tmp_path_factory.mktemp("decoder"))


@pytest.fixture(scope="session")
def decoder(task: ComponentsTask, tmp_path_factory: pytest.TempPathFactory) -> ComponentsDecoder:
    result = train(task, task.settings.training, tmp_path_factory.mktemp("run"))
    card = {"metrics": result.metrics}
    return ComponentsDecoder(result.model, task.settings, task.embeddings.spec, card)
