"""A code server whose runs begin with the large libraries loaded.

Dagster starts a new Python for every run, which then loads them for as long as a small run takes.
Here one process loads them and `tests/helpers/slow_runs.py`, and each run is a fork of it.
"""

from __future__ import annotations

from tests.helpers.forked import LIBRARIES, module

CODE_SERVER = f"""
import multiprocessing

contexts = multiprocessing.get_context
loaded = contexts("forkserver")
loaded.set_forkserver_preload(
    {[*LIBRARIES, "orchestration.definitions", "tests.helpers.slow_runs"]}
)
first = loaded.Process(target=int)
first.start()
first.join()  # all is loaded before Dagster, which has little patience, starts a run
multiprocessing.get_context = (
    lambda method=None: loaded if method == "spawn" else contexts(method)
)
{module("dagster")}
"""
