"""A Ray cluster of two nodes that share nothing but an S3 server, behind a token.

The server is moto's, in a process of its own, over HTTP; the nodes are processes of this machine,
with mounted folders of their own. A node is killed with all that runs on it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from upath import UPath

from corgi_core.data.dataset import write_dataset
from corgi_core.encoders.clip import ClipEnsemble
from corgi_core.encoders.embed import ImageEmbedding
from corgi_core.training.loop import train
from tests.helpers import s3
from tests.helpers.made import samples
from tests.helpers.patience import PATIENCE
from tests.helpers.ray_nodes import Nodes, nodes
from tests.helpers.tiny import SETTINGS, TinyTask
from tests.helpers.tiny_vit import tiny_vit

SHARDS = 10


@pytest.fixture(scope="module")
def server() -> Iterator[s3.S3]:
    with s3.serving() as server:
        yield server


@pytest.fixture(scope="module")
def cluster(server: s3.S3) -> Iterator[Nodes]:
    folder = Path(tempfile.mkdtemp(prefix="corgi-nodes-"))
    try:
        with nodes(folder, 2, **server.environment) as cluster:
            yield cluster
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def store(server: s3.S3, monkeypatch: pytest.MonkeyPatch) -> UPath:
    """The bucket, for this process too."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server.path("corgi")


def start(cluster: Nodes, action: str, **variables: str) -> subprocess.Popen[str]:
    """A driver on the cluster, a process of its own; its output is what it was refused with."""
    script = f"""
from pathlib import Path
from upath import UPath
from corgi_core.errors import CorgiError
from orchestration.resources.compute import Compute
compute, own = Compute(address={cluster.address!r}, min_images=0), Path({str(cluster.own)!r})
try:
{action}
except CorgiError as refusal:
    print(refusal)
"""
    return subprocess.Popen(
        [sys.executable, "-c", script], text=True, cwd="/", stdout=subprocess.PIPE,
        env={**cluster.variables, **variables},
    )  # fmt: skip


def refusal_of(cluster: Nodes, action: str, **variables: str) -> str:
    """What an action on the cluster is refused with."""
    driver = start(cluster, action, RAY_gcs_server_port_wait_time_s="1", **variables)
    said, _ = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 0
    return said


TRAINING = """
    from tests.helpers.tiny import SETTINGS, TinyTask
    def hear(entry):
        with (own / "heard").open("a") as file:
            print(entry["step"], file=file)
    compute.train(TinyTask(pause={pause}), SETTINGS, own / "run", "tiny", hear, storage={storage})
"""


def test_nodes_without_the_shared_folder_and_a_driver_without_the_token_are_refused(
    cluster: Nodes,
) -> None:
    refusal = refusal_of(cluster, TRAINING.format(pause=0, storage=None))
    assert f"does not share the run folder {cluster.own / 'run'}" in refusal
    assert not (cluster.own / "run" / "metrics.jsonl").exists()
    other = cluster.folder / "other"
    other.write_text("b" * 32)
    refusal = refusal_of(cluster, "    compute.connect()", RAY_AUTH_TOKEN_PATH=str(other))
    assert "refuses this process's token" in refusal


@pytest.mark.usefixtures("one_thread")
def test_embeddings_are_the_same_bits_where_a_node_is_killed(
    cluster: Nodes, store: UPath, tmp_path: Path
) -> None:
    dataset = write_dataset(tmp_path / "images", samples(2 * SHARDS), shard_size=2)
    dataset.save(store / "images")
    ClipEnsemble([tiny_vit("tiny-vit", width=32, layers=2, context_length=16)]).save(store / "clip")
    driver = start(
        cluster,
        f"""
    from corgi_core.data.dataset import Dataset
    from tests.helpers.slow_embedding import SlowEmbedding
    store = UPath({str(store)!r})
    job = SlowEmbedding(Dataset.load(store / "images"), None, store / "clip", pause=0.5)
    print(compute.arrays(job, store / "embeddings").digest)
""",
    )
    while not list((store / "embeddings").glob("0*.json")):
        assert driver.poll() is None
        time.sleep(0.1)
    assert cluster.node_of("ray::Worker") is not None
    cluster.kill(1)
    assert len(list((store / "embeddings").glob("0*.json"))) < SHARDS
    said, _ = driver.communicate(timeout=PATIENCE)
    straight = ImageEmbedding(dataset, None, store / "clip").run(tmp_path / "here", "cpu", 1)
    assert said.splitlines()[-1] == straight.digest


@pytest.mark.usefixtures("one_thread")
def test_a_training_is_the_same_bits_where_its_node_is_killed(
    cluster: Nodes, store: UPath, tmp_path: Path
) -> None:
    """Its folder, the metrics there and its result are those of an undisturbed training."""
    cluster.start_node()  # in place of the one that was killed
    run = cluster.own / "run"
    storage = f"UPath({str(store / 'run')!r})"
    driver = start(cluster, TRAINING.format(pause=0.1, storage=storage))
    heard = cluster.own / "heard"
    stored = store / "run" / "checkpoints"
    while not (heard.exists() and list(stored.glob("step-*/state.json"))):
        assert driver.poll() is None
        time.sleep(0.05)
    cluster.kill(cluster.node_of("RayTrainWorker") or 0)
    driver.communicate(timeout=PATIENCE)
    assert heard.read_text().split() == ["10", "20", "30", "40", "50", "60"]
    straight = train(TinyTask(), SETTINGS, tmp_path / "straight")
    assert train(TinyTask(), SETTINGS, run).already_finished
    weights = "final.safetensors"
    assert (run / weights).read_bytes() == (tmp_path / "straight" / weights).read_bytes()
    assert train(TinyTask(), SETTINGS, run).metrics == straight.metrics
    assert not list((store / "run" / "checkpoints").glob("*"))
