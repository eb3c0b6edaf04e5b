"""Shards and other items on Ray's workers: the same arrays as here, whatever dies."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import dagster as dg
import pytest
import ray
from upath import UPath

from corgi_core import progress
from corgi_core.config import load_preset
from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Dataset, write_dataset
from corgi_core.data.pixels import Pixels
from corgi_core.data.quality import gate
from corgi_core.encoders.clip import ClipEnsemble
from corgi_core.encoders.embed import ImageEmbedding
from corgi_core.errors import CorgiError
from corgi_core.io.markers import files_below
from orchestration.resources import ray_workers, trace_collector
from orchestration.resources.compute import Compute
from orchestration.resources.ray_workers import Share, gpu_share, share_of
from orchestration.resources.traces import traced_run
from orchestration.settings import Settings
from tests.helpers.array_jobs import DeviceNumbers, Numbers
from tests.helpers.items import noted, process_of, too_large
from tests.helpers.made import samples
from tests.helpers.patience import PATIENCE
from tests.helpers.spoilt_embedding import SpoiltEmbedding
from tests.helpers.tiny_vit import tiny_vit
from tests.helpers.trace_receiver import receiver

HERE = str(Path(__file__).parents[3])  # where workers find the jobs
ON_RAY = Compute(num_workers=1, min_images=0)


@pytest.fixture(scope="module", autouse=True)
def ray_session() -> Iterator[None]:
    """One Ray for all tests, of two CPUs and a GPU that only Ray believes in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([HERE, os.environ.get("PYTHONPATH", "")]))
        Compute(ray_init_options={"num_cpus": 2, "num_gpus": 1}).connect()
        yield
        ray.shutdown()


@pytest.mark.parametrize(
    ("nodes", "share", "workers"),
    [
        ([{"CPU": 8}], 0, 8), ([{"CPU": 16, "GPU": 1}], 0.0625, 16),
        ([{"CPU": 3, "GPU": 1}], 0.3333, 3), ([{"CPU": 4, "GPU": 2}, {"CPU": 4}], 0.25, 4),
        ([{"CPU": 2, "GPU": 8}], 1, 2),
    ],
)  # fmt: skip
def test_all_cpus_share_all_gpus(nodes: list[dict[str, float]], share: float, workers: int) -> None:
    assert gpu_share(nodes) == share
    assert share_of(nodes, 100, cpus=1, gpus=share) == Share(workers, 1, share)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Ten pictures in five shards."""
    return write_dataset(tmp_path_factory.mktemp("images"), samples(10), shard_size=2)


@pytest.fixture
def numbers(images: Dataset, tmp_path: Path) -> Numbers:
    log = tmp_path / "log"
    log.mkdir()
    return Numbers(images, log)


def ensemble(folder: Path) -> Path:
    ClipEnsemble([tiny_vit("tiny-vit", width=32, layers=2, context_length=16)]).save(folder)
    return folder


def files_of(store: ArrayStore) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in store.folder.iterdir()}


def test_workers_share_the_cpus_of_machines_without_gpus() -> None:
    assert share_of([{"CPU": 8}, {"CPU": 3}], 100, cpus=1, gpus=1.0) == Share(11, 1, 0)
    assert share_of([{"CPU": 8}, {"CPU": 3}], 100, cpus=2, gpus=1.0) == Share(5, 2, 0)
    assert share_of([{"CPU": 8}], 3, cpus=1, gpus=1.0) == Share(3, 1, 0)
    assert share_of([{"CPU": 8, "GPU": 2}], 100, cpus=1, gpus=0) == Share(8, 1, 0)


def test_workers_take_gpus_or_parts_of_them_and_share_the_cpus_there() -> None:
    nodes = [{"CPU": 16, "GPU": 2}, {"CPU": 5, "GPU": 1}, {"CPU": 64}]
    assert share_of(nodes, 100, cpus=1, gpus=1.0) == Share(3, 5, 1.0)
    assert share_of(nodes, 100, cpus=1, gpus=0.5) == Share(6, 2, 0.5)
    assert share_of(nodes, 100, cpus=4, gpus=0.5) == Share(5, 4, 0.5)


@pytest.mark.parametrize(
    ("node", "cpus", "gpus", "needed"),
    [({"CPU": 4}, 5, 1.0, "5 CPUs,"), ({"CPU": 4, "GPU": 1}, 1, 2.0, "1 CPUs and 2 GPUs,")],
)
def test_a_worker_that_no_machine_has_room_for_is_refused(
    node: dict[str, float], cpus: int, gpus: float, needed: str
) -> None:
    with pytest.raises(CorgiError, match=f"is to have {needed} and no machine"):
        share_of([node], 10, cpus, gpus)


def test_pixels_of_workers_are_those_of_this_process_bit_for_bit(
    images: Dataset, tmp_path: Path
) -> None:
    here = Compute(num_workers=0).arrays(Pixels(images, 16), tmp_path / "here")
    there = ON_RAY.arrays(Pixels(images, 16), tmp_path / "there")
    assert files_of(there) == files_of(here)
    assert there.recomputed == here.recomputed == 5


def test_embeddings_of_workers_are_those_of_this_process_and_so_is_their_refusal(
    images: Dataset, tmp_path: Path
) -> None:
    """The encoder's weights become NaN at the last shard: the others stay, and are these."""
    job = ImageEmbedding(images, None, ensemble(tmp_path / "clip"))
    here = Compute(num_workers=0).arrays(job, tmp_path / "here")
    spoilt = SpoiltEmbedding(images, None, job.clip, shard=images.shards[-1])
    two_threads = Compute(num_workers=1, min_images=0, cpus_per_worker=2)
    with pytest.raises(CorgiError, match="tiny-vit made a value that is not finite"):
        two_threads.arrays(spoilt, tmp_path / "there")
    there = two_threads.arrays(job, tmp_path / "there")
    assert there.recomputed == 1
    assert files_of(there) == files_of(here)


def test_each_worker_opens_the_job_once_and_its_progress_is_heard(
    numbers: Numbers, tmp_path: Path
) -> None:
    heard: list[tuple[str, int, int]] = []
    with progress.listening(lambda *report: heard.append(report)):
        store = ON_RAY.arrays(numbers, tmp_path / "store")
    assert store.read("number").tolist() == list(range(10))
    workers = numbers.processes("opened")
    assert 1 <= len(workers) <= 2
    assert os.getpid() not in workers
    assert set.union(*(numbers.processes(shard) for shard in store.shards)) <= workers
    assert set(numbers.devices()) == {"1 threads, cpu"}
    assert heard == [("numbers", done, 10) for done in range(0, 11, 2)]
    assert ON_RAY.arrays(numbers, tmp_path / "store").recomputed == 0


def test_workers_send_a_span_a_shard_below_the_jobs(
    numbers: Numbers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace_collector, "PATIENCE", 30.0)  # however busy the machine is
    with receiver() as collector, dg.DagsterInstance.ephemeral() as instance:
        given = {"CORGI_HOME": str(tmp_path), "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        with traced_run(Settings.from_environment(given), instance, str(uuid4()), "run"):
            store = ON_RAY.arrays(numbers, tmp_path / "store")
    job = collector.named("numbers")
    shards = {each.name: each for each in collector.spans if each.name not in ("run", "numbers")}
    assert sorted(shards) == [f"numbers {shard}" for shard in store.shards]
    assert {each.trace_id for each in collector.spans} == {job.trace_id}
    assert {each.parent_span_id for each in shards.values()} == {job.span_id}
    senders = {sender["process.pid"] for sender in collector.senders}
    assert senders == {os.getpid(), *numbers.processes("opened")}


def test_workers_of_half_a_gpu_compute_there_with_their_share_of_cpus(
    numbers: Numbers, tmp_path: Path
) -> None:
    halves = Compute(num_workers=1, min_images=0, gpus_per_worker=0.5)
    job = DeviceNumbers(numbers.images, numbers.log)
    assert halves.arrays(job, tmp_path / "store").recomputed == 5
    assert set(job.devices()) == {"1 threads, cuda"}
    assert len(job.processes("opened")) <= 2


def test_few_images_and_one_shard_are_computed_here(numbers: Numbers, tmp_path: Path) -> None:
    some = Compute(num_workers=1, min_images=11).arrays(numbers, tmp_path / "store")
    (some.folder / "00003.safetensors").unlink()
    assert numbers.processes("opened") == {os.getpid()}
    (numbers.log / f"opened-{os.getpid()}").unlink()
    assert ON_RAY.arrays(numbers, tmp_path / "store").recomputed == 1
    assert numbers.processes("opened") == {os.getpid()}


def test_the_shard_of_a_killed_worker_is_computed_by_another(
    numbers: Numbers, tmp_path: Path
) -> None:
    straight = Numbers(numbers.images, numbers.log).run(tmp_path / "straight", "cpu", 1)
    job = replace(numbers, die_at="00001", deaths=1)
    store = ON_RAY.arrays(job, tmp_path / "killed")
    assert files_of(store) == files_of(straight)
    (dead,) = job.processes("died")
    assert job.processes("00001") - {dead, os.getpid()}


def test_workers_that_die_again_and_again_name_the_shard_and_leave_the_others(
    numbers: Numbers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_workers, "MAX_DEATHS", 2)
    job = replace(numbers, die_at="00004", deaths=2)
    with pytest.raises(CorgiError, match="2 workers died at shard 00004") as refused:
        ON_RAY.arrays(job, tmp_path / "store")
    assert "goes on" in refused.value.remedy
    assert ON_RAY.arrays(job, tmp_path / "store").recomputed == 1


def test_a_folder_that_a_worker_does_not_see_is_named(numbers: Numbers, tmp_path: Path) -> None:
    mine = UPath("memory://only-of-this-process/images")
    numbers.images.save(mine)
    with pytest.raises(CorgiError, match=r"numbers, does not see memory://only-of-this.*images"):
        ON_RAY.arrays(replace(numbers, images=Dataset.load(mine)), tmp_path / "store")


def test_a_cluster_that_others_use_says_what_is_missing(numbers: Numbers, tmp_path: Path) -> None:
    @ray.remote(num_cpus=2)
    class Other:
        def there(self) -> None:
            """Return once the CPUs are taken."""

    other = Other.remote()
    ray.get(other.there.remote())
    impatient = Compute(num_workers=1, min_images=0, patience=0.5)
    with pytest.raises(CorgiError, match=r"no worker with 1 CPUs .* 0 of 2 CPUs and 1 of 1 GPUs"):
        impatient.arrays(numbers, tmp_path / "store")
    ray.kill(other)


def test_results_come_in_order_and_nothing_is_begun_that_nobody_takes(tmp_path: Path) -> None:
    results = ON_RAY.map(noted, tmp_path, range(20), "numbers")
    assert next(results) == 0
    time.sleep(0.3)
    workers = 2
    assert len(list(tmp_path.iterdir())) <= 1 + ray_workers.WINDOW * workers
    assert list(results) == list(range(1, 20))


def arrays_of(numbers: Numbers, folder: Path) -> object:
    return ON_RAY.arrays(numbers, folder / "store")


def gate_of(numbers: Numbers, folder: Path) -> object:
    settings = load_preset("emoji-small").preset.data
    return gate(numbers.images, folder / "gated", settings, ON_RAY.map_images)


@pytest.mark.parametrize("work", [arrays_of, gate_of])
def test_no_worker_is_left_where_its_results_are_taken_no_further(
    numbers: Numbers, tmp_path: Path, work: Callable[[Numbers, Path], object]
) -> None:
    """A listener fails at the first results; the failure, with all its frames, is still there."""

    def fail(what: str, done: int, total: int) -> None:
        if done:
            raise RuntimeError("the listener has failed")

    with progress.listening(fail), pytest.raises(RuntimeError, match="listener") as failure:
        work(numbers, tmp_path)
    gone_by = time.monotonic() + PATIENCE
    while ray.available_resources().get("CPU") != 2 and time.monotonic() < gone_by:
        time.sleep(0.05)
    assert ray.available_resources().get("CPU") == 2
    assert failure.value


def test_an_item_for_which_memory_is_lacking_again_and_again_is_named(tmp_path: Path) -> None:
    refusal = r"3 workers died at one of the numbers \(out of memory: cannot allocate 2 TiB\)"
    with pytest.raises(CorgiError, match=refusal) as refused:
        list(ON_RAY.map(too_large, tmp_path, range(4), "numbers"))
    assert "lacked memory" in refused.value.remedy
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(("images", "here"), [(9, True), (10, False)])
def test_few_images_are_mapped_here(images: int, here: bool) -> None:
    some = Compute(num_workers=1, min_images=10).map_images(images)
    processes = set(some(process_of, None, range(3), "numbers"))
    assert (processes == {os.getpid()}) == here


def test_the_gate_of_workers_is_that_of_this_process_bit_for_bit(tmp_path: Path) -> None:
    """Two images are twins of ones in earlier shards, which no worker sees."""
    some = samples(8)
    twins = [replace(some[0], key="91", group="91"), replace(some[4], key="93", group="93")]
    raw = write_dataset(tmp_path / "raw", [*some, *twins], shard_size=2)
    settings = load_preset("emoji-small").preset.data
    here = gate(raw, tmp_path / "here", settings)
    there = gate(raw, tmp_path / "there", settings, ON_RAY.map_images)
    assert len(here) == 8
    assert there.recomputed == here.recomputed == 5
    assert files_below(there.folder) == files_below(here.folder)
    for name in files_below(here.folder):
        assert (there.folder / name).read_bytes() == (here.folder / name).read_bytes(), name
