"""One thread that samples what waits in the queue, batch by batch."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from corgi_core.errors import CorgiError
from corgi_core.serving.pictures import OrderedPicture
from corgi_core.serving.queue import Batch, Job, WorkQueue
from corgi_core.serving.way_to_an_image import OrderedWay

log = logging.getLogger(__name__)
Ordered: TypeAlias = OrderedPicture | OrderedWay
BATCH_SIZE = 16  # pictures
CAPACITY = 256  # pictures that wait or are computed
NEWEST = 0.2  # weight of the newest batch in the mean time of a picture
FAREWELL = 5.0  # seconds that accepted pictures have when the server stops
LAST_BATCH = 1.0  # seconds to wait for a batch that nobody waits for any more


class Model(Protocol):
    """What the engine needs of `ServedModel`."""

    @property
    def id(self) -> str:
        """Names the model."""

    @property
    def about(self) -> dict[str, Any]:
        """Its limits and defaults."""

    def made_by(self, decoder: str | None) -> dict[str, Any]:
        """The name, id and digests of the models that make pictures by a decoder's alias."""

    @property
    def map(self) -> dict[str, Any]:
        """Its embeddings on a plane."""

    def sample(self, ordered: Sequence[Any]) -> list[Any]:
        """The pictures, or ways to them, that were ordered, all of one `key`."""


class Key(NamedTuple):
    """Pictures of one batch are made by one model with the same options."""

    model: Model
    options: Hashable


class Engine:
    """Samples what is submitted; a picture is made by the model that was there when it came.

    So a request's pictures are of one model, and another takes its place between two batches.

    Args:
        model: Makes the pictures, until `replace`.
        capacity: Pictures that wait or are computed, at most.
        batch_size: Pictures that are sampled together, at most.
        on_batch: Is called with the number of pictures and the seconds of every batch.
    """

    def __init__(
        self,
        model: Model,
        capacity: int = CAPACITY,
        batch_size: int = BATCH_SIZE,
        on_batch: Callable[[int, float], None] = lambda count, seconds: None,
    ) -> None:
        self.model = model
        self.queue: WorkQueue[Ordered, Any] = WorkQueue(capacity, batch_size)
        self._on_batch = on_batch
        self._seconds_each = 0.0
        self._thread = threading.Thread(target=self._work, name="sampling", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread that samples is there."""
        return self._thread.is_alive()

    @property
    def seconds_ahead(self) -> int:
        """About how long what was accepted will take, in whole seconds, 1 at least."""
        return max(1, math.ceil(self.queue.size * self._seconds_each))

    def submit(self, model: Model, ordered: Sequence[Ordered], weight: int = 1) -> Job[Any, Any]:
        """Have pictures of one request made, or the way to one, by a model that was this engine's.

        `weight` says how many images are decoded for each.

        Raises:
            FullError: If the queue has no room.
            ClosedError: If the engine is stopping.
        """
        return self.queue.submit(ordered, Key(model, ordered[0].key), weight)

    def replace(self, model: Model) -> None:
        """From the next request on, this model makes the pictures."""
        self.model = model

    def stop(self) -> None:
        """Accept nothing, make what was accepted, and give up what is not made in time."""
        self.queue.close()
        self._thread.join(FAREWELL)
        self.queue.abandon()
        self._thread.join(LAST_BATCH)

    def _work(self) -> None:
        while (batch := self.queue.take()) is not None:
            began = time.perf_counter()
            self._answer(batch)
            seconds = time.perf_counter() - began
            count = sum(len(part.items) * part.job.weight for part in batch)
            before = self._seconds_each or seconds / count
            self._seconds_each = (1 - NEWEST) * before + NEWEST * seconds / count
            self._on_batch(count, seconds)

    def _answer(self, batch: Batch[Ordered, Any]) -> None:
        """Sample a batch; where that fails, each job alone, so that one spoils none but itself."""
        key = batch[0].job.key
        assert isinstance(key, Key)
        try:
            self.queue.finish(batch, key.model.sample([each for p in batch for each in p.items]))
        except Exception as error:
            if len(batch) > 1:
                for part in batch:
                    self._answer([part])
                return
            if not isinstance(error, CorgiError):
                log.exception("a picture cannot be sampled")
            self.queue.fail(batch, error)
