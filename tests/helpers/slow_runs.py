"""Loaded into the processes of runs: an embedding takes its time, so that it can be cancelled.

On Ray's workers too. No test imports this, as its own embeddings would be slow ones from then on.
"""

from __future__ import annotations

from functools import partial

from corgi_core.encoders import embed
from tests.helpers.quick_sqlite import spare_the_disk
from tests.helpers.slow_embedding import SlowEmbedding

PAUSE = 0.3  # seconds a shard

vars(embed)["ImageEmbedding"] = partial(SlowEmbedding, pause=PAUSE)
spare_the_disk()
