"""Copies of remote files on this machine's disk, within a budget."""

from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from upath import UPath

from corgi_core.data.arrays import ArrayStore
from corgi_core.data.mapped import mapped_arrays
from corgi_core.errors import CorgiError
from corgi_core.io import disk_cache
from corgi_core.io.disk_cache import cache_folder, read_copy


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, with room for 250 bytes."""
    monkeypatch.setattr(disk_cache.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(disk_cache, "budget", 250 / disk_cache.GIGABYTE)
    return cache_folder()


def remote(name: str, size: int = 100) -> tuple[UPath, str]:
    path, content = UPath(f"memory://cache/{name}.bin"), name.encode().ljust(size, b".")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path, hashlib.sha256(content).hexdigest()


def copy_of(path: UPath, sha256: str) -> Path:
    return read_copy(path, sha256, lambda copy: copy)


def test_a_file_is_copied_once(cache: Path) -> None:
    path, sha256 = remote("a")
    copy = copy_of(path, sha256)
    assert copy.read_bytes() == path.read_bytes()
    path.unlink()
    assert copy_of(path, sha256) == copy
    assert [each.name for each in cache.iterdir()] == [f"{sha256}.bin"]


def test_a_copy_that_is_read_again_is_the_same_file_to_who_has_mapped_it(cache: Path) -> None:
    path, sha256 = remote("a")
    copy = copy_of(path, sha256)
    os.utime(copy, (1000, 1000))
    about = copy_of(path, sha256).stat()
    assert about.st_mtime == 1000
    assert about.st_atime > 1000


def test_another_content_is_refused_and_leaves_nothing(cache: Path) -> None:
    path, sha256 = remote("a")
    path.write_bytes(b"overwritten")
    with pytest.raises(CorgiError, match=r"memory://cache/a\.bin is damaged"):
        copy_of(path, sha256)
    assert not list(cache.glob("*"))
    path.write_bytes(b"a".ljust(100, b"."))
    assert copy_of(path, sha256).exists()


def test_what_was_not_read_for_longest_makes_room(cache: Path) -> None:
    copies = {}
    for age, name in enumerate("ab"):
        copies[name] = copy_of(*remote(name))
        os.utime(copies[name], (1000 + age, 1000 + age))
    copy_of(*remote("a"))  # read again
    copies["c"] = copy_of(*remote("c"))
    assert {name for name, copy in copies.items() if copy.exists()} == {"a", "c"}
    large = copy_of(*remote("large", 900))  # more than the budget, and needed all the same
    assert [each.name for each in cache.iterdir()] == [large.name]


def test_what_is_removed_stays_readable_to_who_has_mapped_it(tmp_path: Path) -> None:
    import safetensors.numpy

    content = safetensors.numpy.save({"x": np.arange(10)})
    path = UPath("memory://cache/x.safetensors")
    path.write_bytes(content)
    copy = copy_of(path, hashlib.sha256(content).hexdigest())
    values = mapped_arrays(copy, None)["x"]
    copy.unlink()
    assert values.tolist() == list(range(10))


def test_a_copy_that_fails_leaves_nothing(cache: Path) -> None:
    path, sha256 = remote("a")
    path.unlink()
    with pytest.raises(FileNotFoundError):
        copy_of(path, sha256)
    assert not cache.exists() or not list(cache.iterdir())


def test_a_remote_store_is_read_through_the_cache(tmp_path: Path, cache: Path) -> None:
    from corgi_core.data.arrays import compute_missing
    from tests.corgi_core.training.test_rows import Shards

    local = compute_missing(
        tmp_path / "local", Shards(), {},
        lambda shard: {"keys": np.array(Shards().keys(shard), dtype=str),
                       "x": np.arange(Shards.rows[shard])}, "x",
    )  # fmt: skip
    local.save(UPath("memory://cache/store"))
    store = ArrayStore.load(UPath("memory://cache/store"))
    assert store.mapped("00003", "x").tolist() == list(range(9))
    assert store.shard_keys("00001").tolist() == Shards().keys("00001")
    assert list(cache.iterdir())


def test_a_copy_that_the_disk_has_damaged_is_fetched_again(cache: Path) -> None:
    path, sha256 = remote("a")
    copy = copy_of(path, sha256)
    copy.write_bytes(b"?" * 100)

    def read(found: Path) -> bytes:
        if (content := found.read_bytes()) != path.read_bytes():
            raise CorgiError(f"{found} is damaged", "make it again")
        return content

    assert read_copy(path, sha256, read) == path.read_bytes()
    assert copy.read_bytes() == path.read_bytes()


def test_what_a_reader_refuses_of_a_whole_copy_is_not_fetched_again(cache: Path) -> None:
    path, sha256 = remote("a")

    def read(found: Path) -> bytes:
        raise CorgiError(f"{found} has no such array", "compute it")

    with pytest.raises(CorgiError, match="no such array"):
        read_copy(path, sha256, read)
    assert copy_of(path, sha256).exists()


def test_many_that_need_a_file_at_once_fetch_it_once(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched, all_here, real = [], threading.Barrier(4), disk_cache.download_all

    def download(source: UPath, folder: Path, names: Sequence[str]) -> None:
        fetched.append(names)
        real(source, folder, names)

    monkeypatch.setattr(disk_cache, "download_all", download)
    path, sha256 = remote("a")

    def read(_: int) -> bytes:
        all_here.wait()
        return read_copy(path, sha256, Path.read_bytes)

    with ThreadPoolExecutor(4) as readers:
        assert set(readers.map(read, range(4))) == {path.read_bytes()}
    assert len(fetched) == 1


HOLDER = """
import sys
from pathlib import Path
from corgi_core.io import disk_cache
disk_cache.tempfile.tempdir, sha256 = sys.argv[1:]
with disk_cache._lock(sha256[:2], "busy"):
    print("held", flush=True)
    sys.stdin.readline()
    disk_cache.cache_folder().mkdir()
    (disk_cache.cache_folder() / f"{sha256}.bin").write_bytes(b"a".ljust(100, b"."))
"""


def test_what_another_process_is_fetching_is_waited_for(cache: Path) -> None:
    path, sha256 = remote("a")
    path.unlink()  # so that nobody else can fetch it
    command = [sys.executable, "-c", HOLDER, str(cache.parent), sha256]
    with (
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as holder,
        ThreadPoolExecutor(1) as reader,
    ):
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        reading = reader.submit(read_copy, path, sha256, Path.read_bytes)
        with pytest.raises(TimeoutError):
            reading.result(timeout=0.3)
        holder.communicate("\n")
        assert reading.result(timeout=60) == b"a".ljust(100, b".")


def test_what_another_removes_before_it_is_opened_is_fetched_again(cache: Path) -> None:
    path, sha256 = remote("a")
    removed = []

    def read(copy: Path) -> bytes:
        if not removed:
            removed.append(copy)
            copy.unlink()
        return copy.read_bytes()

    assert read_copy(path, sha256, read) == path.read_bytes()


def test_what_is_being_fetched_has_its_room(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room is made before a file is fetched, and another fetch in the meantime leaves it."""
    old, real = copy_of(*remote("a")), disk_cache.download_all
    found = []

    def download(source: UPath, folder: Path, names: Sequence[str]) -> None:
        found.append(sum(each.stat().st_size for each in cache.glob("*.bin")))
        if names == ["b.bin"]:
            copy_of(*remote("c"))
        real(source, folder, names)

    monkeypatch.setattr(disk_cache, "download_all", download)
    copy_of(*remote("b"))
    assert found == [100, 0]
    assert not old.exists()
    assert len(list(cache.iterdir())) == 2


def test_a_disk_that_takes_no_copy_is_named(cache: Path) -> None:
    path, sha256 = remote("a", 10_000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(CorgiError, match=rf"a\.bin cannot be copied to {cache}.*TMPDIR"):
            copy_of(path, sha256)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(cache.iterdir())
