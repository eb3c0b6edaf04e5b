"""What libraries need in the environment of a process, where it is not there yet."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Mapping
from pathlib import Path

LOOPBACK = ("127.0.0.1", "localhost", "::1")
EXCEPTED = ("no_proxy", "NO_PROXY")
NO_TELEMETRY = {  # Dagster's switch is in infra/dagster.yaml; Great Expectations sends none
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "true",
}


def restart_if_incomplete() -> None:
    """Start this program again, as the same process, where libraries miss something.

    No variable is changed under a running program: a library may have read it already.
    """
    complete = completed(os.environ)
    if complete != dict(os.environ):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], complete)


def completed(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of this user with what libraries rely on.

    Requests to this machine itself pass by a proxy, where there is one. A user without an entry in
    the password database gets a name, and a user without a home folder gets CORGI_HOME as such.
    """
    complete = dict(environment)
    if any(value and _names_a_proxy(name) for name, value in environment.items()):
        for name in EXCEPTED:
            excepted = [host for host in environment.get(name, "").split(",") if host]
            missing = [host for host in LOOPBACK if host not in excepted]
            complete[name] = ",".join([*excepted, *missing])
    if not Path(os.path.expanduser("~")).is_dir():  # noqa: PTH111  # Path's raises an error
        complete["HOME"] = str(home_folder(environment))
    try:
        getpass.getuser()
    except (KeyError, OSError):
        complete["USER"] = f"uid-{os.getuid()}"
    return complete


def home_folder(environment: Mapping[str, str] | None = None) -> Path:
    """CORGI_HOME of an environment, by default this process's, whatever else it says."""
    given = os.environ if environment is None else environment
    return Path(given.get("CORGI_HOME") or ".corgi").absolute()


def set_for_library(values: Mapping[str, str]) -> None:
    """Set variables that a library is about to read; one that is set already stays as it is.

    Some libraries (Ray's workers, MLflow's client, DVC) are configured in no other way.
    """
    for name, value in values.items():
        os.environ.setdefault(name, value)


def _names_a_proxy(name: str) -> bool:
    return name.lower().endswith("_proxy") and name not in EXCEPTED
