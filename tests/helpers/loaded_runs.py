"""A code server whose runs begin with the large libraries loaded.

Dagster starts a new Python for every run, which then loads them for as long as a small run takes.
Here one process loads them and this module, and each run is a fork of it. In its runs an embedding
takes its time, so that there is a middle of it to be cancelled in; on Ray's workers too.
"""

from __future__ import annotations

from functools import partial

from corgi_core.encoders import embed
from tests.helpers.forked import LIBRARIES, module
from tests.helpers.quick_sqlite import spare_the_disk
from tests.helpers.slow_embedding import SlowEmbedding

PAUSE = 0.3  # seconds a shard
CODE_SERVER = f"""
import multiprocessing

contexts = multiprocessing.get_context
loaded = contexts("forkserver")
loaded.set_forkserver_preload({[*LIBRARIES, "orchestration.definitions", __name__]})
first = loaded.Process(target=int)
first.start()
first.join()  # all is loaded before Dagster, which has little patience, starts a run
multiprocessing.get_context = (
    lambda method=None: loaded if method == "spawn" else contexts(method)
)
{module("dagster")}
"""

vars(embed)["ImageEmbedding"] = partial(SlowEmbedding, pause=PAUSE)
spare_the_disk()
