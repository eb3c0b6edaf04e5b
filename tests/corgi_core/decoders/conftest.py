"""A decoder trained once for all tests, by the shared loop, until it knows the shapes."""

from __future__ import annotations

import pytest

from corgi_core.decoders.pca.decoder import PCADecoder
from corgi_core.decoders.pca.task import PCATask
from corgi_core.training.loop import train
from tests.helpers.shapes import a_task


@pytest.fixture(scope="session")
def task(tmp_path_factory: pytest.TempPathFactory) -> PCATask:
    return a_task(tmp_path_factory.mktemp("decoder"))


@pytest.fixture(scope="session")
def decoder(task: PCATask, tmp_path_factory: pytest.TempPathFactory) -> PCADecoder:
    result = train(task, task.settings.training, tmp_path_factory.mktemp("run"))
    card = {"metrics": result.metrics}
    return PCADecoder(result.model, task.settings, task.embeddings.spec, card)
