"""A decoder trained once for all tests, by the shared loop, until it knows the shapes."""

from __future__ import annotations

import pytest
from shapes import a_task

from corgi_core.decoders.model import DecoderModel
from corgi_core.decoders.task import DecoderTask
from corgi_core.training.loop import train


@pytest.fixture(scope="session")
def task(tmp_path_factory: pytest.TempPathFactory) -> DecoderTask:
    return a_task(tmp_path_factory.mktemp("decoder"))


@pytest.fixture(scope="session")
def decoder(task: DecoderTask, tmp_path_factory: pytest.TempPathFactory) -> DecoderModel:
    result = train(task, task.settings.training, tmp_path_factory.mktemp("run"))
    card = {"metrics": result.metrics}
    return DecoderModel(result.model, task.settings, task.embeddings.spec, card)
