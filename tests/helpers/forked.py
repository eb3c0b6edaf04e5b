"""Programs in processes of their own that begin with the large libraries loaded.

To load torch, Dagster and MLflow takes longer than most of what the tests then run. One server
loads them once, and of Corgi only `orchestration.environment`, `corgi_core.torchvision_on_cpu` and
their packages; each program is a fork of it, with an environment, a folder, an output and an end of
its own. What a library reads at import comes from the server's environment: such variables are
tested by `subprocess`. So are interrupts: a fork that one ends exits with 1. That a program loads
what it needs by itself is proved by those that `subprocess` starts, most of all in tests/e2e.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from orchestration.environment import completed
from tests.helpers.quick_sqlite import spare_the_disk

LIBRARIES = (
    "corgi_core.torchvision_on_cpu",  # which lets torchvision be loaded, and loads nothing itself
    "typer", "rich.console", "rich.progress", "pydantic_settings", "upath.implementations.local",
    "numpy", "pandas", "pyarrow.parquet", "safetensors.numpy", "PIL.Image", "scipy.stats",
    "matplotlib.figure", "torch", "torch._dynamo", "torchvision", "faiss", "open_clip",
    "transformers.modeling_utils", "transformers.models.bert",
    "diffusers.models.unets.unet_2d_condition", "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.schedulers.scheduling_ddpm", "great_expectations",
    "great_expectations.expectations", "dagster", "mlflow", "alembic.command", "s3fs",
    "mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store",
)  # fmt: skip
ENVIRONMENT = dict(os.environ)  # the server's, whichever test starts it
CORGI = "from orchestration.cli.app import app; app()"


def module(name: str) -> str:
    """The program that `python -m NAME` runs."""
    return f"import runpy; runpy.run_module({name!r}, run_name='__main__', alter_sys=True)"


@dataclass(frozen=True)
class Program:
    """A running program."""

    pid: int

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def poll(self) -> int | None:
        """Its exit code, negative where a signal ended it; none while it runs."""
        code: int | None = _ask(poll=self.pid)
        return code

    def wait(self, timeout: float = 600) -> int:
        """Its exit code, after so many seconds at most."""
        until = time.monotonic() + timeout
        while (code := self.poll()) is None:
            assert time.monotonic() < until, "the program does not end"
            time.sleep(0.05)
        return code


def start(
    code: str,
    words: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    *outputs: Path,
    stdin: Path = Path(os.devnull),
) -> Program:
    """Start what `python -c CODE WORDS…` runs.

    Args:
        code: The program.
        words: Its arguments.
        environment: All its variables; those that `restart_if_incomplete` would add are added.
        folder: Where it runs.
        outputs: The file that standard output is appended to, and standard error's; one for both.
        stdin: The file that standard input is read from, such as a named pipe.
    """
    files = [str(file) for file in (stdin, outputs[0], outputs[-1])]
    variables = completed(environment)  # or `corgi` would start itself again, with nothing loaded
    return Program(
        _ask(
            code=code, words=[str(word) for word in words], variables=variables,
            folder=str(folder), files=files,
        )
    )  # fmt: skip


def run(
    code: str, words: Sequence[str], environment: Mapping[str, str], folder: Path
) -> subprocess.CompletedProcess[str]:
    """Run such a program to its end."""
    with tempfile.TemporaryDirectory() as temporary:
        out, err = Path(temporary) / "out", Path(temporary) / "err"
        ended = start(code, words, environment, folder, out, err).wait()
        return subprocess.CompletedProcess(
            list(words), ended, out.read_text("utf-8"), err.read_text("utf-8")
        )


@cache
def _server() -> subprocess.Popen[str]:
    server = subprocess.Popen(
        [sys.executable, "-m", __name__],
        cwd=Path(__file__).parents[2], env=ENVIRONMENT,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    atexit.register(server.communicate)
    return server


def _ask(**request: Any) -> Any:
    server = _server()
    assert server.stdin
    assert server.stdout
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    line = server.stdout.readline()
    assert line, "the server of forks has ended"
    return json.loads(line)


def _serve() -> dict[str, Any] | None:
    """Answer requests, one a line; a fork returns the program to run."""
    ended: dict[int, int] = {}  # exit codes by pid
    for line in sys.stdin:
        request = json.loads(line)
        answer: int | None
        if "poll" in request:
            if (asked := request["poll"]) not in ended:
                pid, status = os.waitpid(asked, os.WNOHANG)
                if pid:
                    ended[pid] = os.waitstatus_to_exitcode(status)
            answer = ended.get(asked)
        else:
            answer = os.fork()
            if answer == 0:
                return request
            ended.pop(answer, None)  # of an earlier program with this pid
        sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()
    return None


def _become(request: Mapping[str, Any]) -> None:
    """Give this process what the program is to have."""
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["variables"])
    tempfile.tempdir = None  # or TMPDIR would be the server's
    more = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = ["", *(path for path in more if path and path not in sys.path)]
    sys.argv = ["-c", *request["words"]]
    for number, file in enumerate(map(Path, request["files"])):
        with file.open("ab" if number else "rb") as opened:
            os.dup2(opened.fileno(), number)


def _leave() -> None:
    """End with `code`, without taking all that is loaded apart."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    code = 1  # where the program raises something
    atexit.register(_leave)  # first, to be called last
    for library in LIBRARIES:
        importlib.import_module(library)
    spare_the_disk()
    gc.freeze()  # or a fork's first collection would copy all that is loaded
    if program := _serve():
        _become(program)
        try:
            exec(compile(program["code"], "<string>", "exec"), {"__name__": "__main__"})
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            raise
