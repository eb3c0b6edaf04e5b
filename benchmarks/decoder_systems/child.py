"""A system in a process of its own, which steps and measures when it is asked."""

from __future__ import annotations

import resource
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection

from benchmarks.decoder_systems.system import Case, System
from corgi_core.errors import CorgiError

PEERS = {"diffusers": True, "diffusers-cached": False}  # whether CLIP runs in every step

# A server loads what all systems need, once; each process is a fork of it.
PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(["benchmarks.decoder_systems.corgi"])


class Child:
    """A system in a process of its own; one that is not asked does not compute."""

    def __init__(self, name: str, case: Case) -> None:
        self.name = name
        self._pipe, theirs = PROCESSES.Pipe()
        self._process = PROCESSES.Process(target=_serve, args=(theirs, name, case), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, what: str) -> float:
        """The seconds of a "step", or the "peak" of its memory so far in bytes."""
        try:
            self._pipe.send(what)
            return float(self._pipe.recv())
        except (EOFError, BrokenPipeError) as stopped:
            raise CorgiError(
                f"{self.name} stopped at {what!r}",
                "read its message above, or leave it out with --kinds",
            ) from stopped

    def end(self) -> None:
        self._pipe.close()
        self._process.join()


def prepare(case: Case) -> None:
    """Make Corgi's stores of the pictures, in a process whose memory goes with it."""
    making = PROCESSES.Process(target=_make_stores, args=(case,))
    making.start()
    making.join()


def _make_stores(case: Case) -> None:
    from benchmarks.decoder_systems.corgi import make_stores

    make_stores(case.preset, case.pictures, case.stores)


def _serve(pipe: Connection, name: str, case: Case) -> None:
    import torch

    torch.set_num_threads(case.threads)
    torch.manual_seed(0)
    system = _built(name, case)
    with system.running():
        while True:
            try:
                asked = pipe.recv()
            except EOFError:
                return
            if asked == "peak":
                pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
                continue
            began = time.perf_counter()
            system.step()
            pipe.send(time.perf_counter() - began)


def _built(name: str, case: Case) -> System:
    if name in PEERS:
        from benchmarks.decoder_systems.diffusers_example import DiffusersExample

        return DiffusersExample(case, clip_in_step=PEERS[name])
    from benchmarks.decoder_systems.corgi import Corgi

    return Corgi(name, case)
