"""Ray listens to this machine alone, and nothing that Corgi starts tells its makers of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from orchestration.cli.ui import _start
from orchestration.resources.instance import open_instance, prepare_home
from orchestration.settings import Settings
from tests.helpers.patience import PATIENCE

LISTENING = """
import corgi_core, grpc, ipaddress, json, psutil
from orchestration.resources.compute import Compute

compute = Compute(num_workers=1)
assert list(compute.map(max, 1, [0, 2], "numbers", uses_device=False)) == [1, 2]
import ray

me, found = psutil.Process(), set()
for process in (me, *me.children(recursive=True)):
    try:
        found |= {c.laddr.ip for c in process.net_connections() if c.status == "LISTEN"}
    except psutil.NoSuchProcess:
        pass
hosts = [ipaddress.ip_address(ip.removeprefix("::ffff:")) for ip in found]
head = grpc.insecure_channel(ray.get_runtime_context().gcs_address)
try:
    head.unary_unary("/ray.rpc.NodeInfoGcsService/GetAllNodeInfo")(b"", timeout=10)
    answered = "OK"
except grpc.RpcError as refused:
    answered = refused.code().name
print(json.dumps([len(hosts), all(h.is_loopback for h in hosts), answered]))
"""
TELLING = """
import json, os, sys
from dvc.analytics import is_enabled
from huggingface_hub.constants import HF_HUB_DISABLE_TELEMETRY
from mlflow.environment_variables import MLFLOW_DISABLE_TELEMETRY
from ray._common.usage.usage_lib import usage_stats_enabled

sends = [is_enabled(), not HF_HUB_DISABLE_TELEMETRY, not MLFLOW_DISABLE_TELEMETRY.get(),
        usage_stats_enabled()]
print(json.dumps(sends))
"""


def test_a_local_ray_listens_on_the_loopback_alone_and_asks_for_its_token(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LISTENING], capture_output=True, text=True,
        timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    count, closed, answered = json.loads(done.stdout.splitlines()[-1])
    assert count
    assert closed
    assert answered == "UNAUTHENTICATED"


def test_the_servers_and_their_libraries_send_no_telemetry(tmp_path: Path) -> None:
    settings = Settings.from_environment({"CORGI_HOME": str(tmp_path / "home")})
    log = tmp_path / "log"
    child = _start([sys.executable, "-W", "ignore", "-c", TELLING], log, settings, tmp_path)
    assert child.wait(PATIENCE) == 0, log.read_text()
    assert json.loads(log.read_text().splitlines()[-1]) == [False] * 4
    with open_instance(settings) as instance:
        assert not instance.telemetry_enabled
    assert "telemetry:\n  enabled: false" in (prepare_home(settings) / "dagster.yaml").read_text()
