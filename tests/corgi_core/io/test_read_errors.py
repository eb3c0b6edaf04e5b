"""What cannot be read is not called damaged: it says what is in the way, and what to do."""

from __future__ import annotations

import errno
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Dataset, write_dataset
from corgi_core.data.formats.walk import content_of
from corgi_core.data.manifest import read_record
from corgi_core.data.pixels import pixels
from corgi_core.errors import CorgiError
from corgi_core.io.read_errors import explained_read_error
from tests.helpers.made import samples

READ_AS_ANOTHER_USER = """
import os, sys
from pathlib import Path
from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Dataset
from corgi_core.errors import CorgiError
images, store = Dataset.load(Path(sys.argv[1])), ArrayStore.load(Path(sys.argv[2]))
images.records, store.digest
os.chmod(images.folder, 0), os.chmod(store.folder, 0)
if not os.geteuid():
    os.setuid(65534)
for read in (
    lambda: images.rows("00000"), lambda: list(images.images("00000")),
    lambda: store.read_shard("00000", "pixels"), lambda: store.mapped("00000", "pixels"),
):
    try:
        read()
    except CorgiError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, ArrayStore]:
    folder = tmp_path_factory.mktemp("read")
    images = write_dataset(folder / "images", samples(4), shard_size=2)
    return images, pixels(images, folder / "pixels", 4)


@contextmanager
def no_file_can_be_opened() -> Iterator[None]:
    """This process may open no file beside those that it has open."""
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))


def reads(images: Dataset, store: ArrayStore) -> list[Callable[[], object]]:
    return [
        lambda: images.rows("00001"),
        lambda: list(images.images("00001")),
        lambda: read_record(images.folder, "00001"),
        lambda: store.read_shard("00001", "pixels"),
        lambda: store.mapped("00001", "pixels"),
    ]


def test_too_many_open_files_are_said_so_and_nothing_is_passed_over_or_made_again(
    stored: tuple[Dataset, ArrayStore],
) -> None:
    images, store = stored
    images.rows("00000"), store.mapped("00000", "pixels")  # what is imported at first use
    images.records, store.digest  # noqa: B018  read before
    for read in reads(images, store):
        with no_file_can_be_opened(), pytest.raises(CorgiError) as refused:
            read()
        assert "cannot be read: too many files are open" in refused.value.problem
        assert "ulimit" in refused.value.remedy
    with no_file_can_be_opened(), pytest.raises(OSError, match="Too many open files"):
        content_of("cat.jpg", images.folder / "dataset.json")
    for read in reads(images, store):
        read()


def test_files_of_another_user_are_not_damaged(tmp_path: Path) -> None:
    images = write_dataset(tmp_path / "images", samples(2), shard_size=2)
    store = pixels(images, tmp_path / "pixels", 4)
    command = [sys.executable, "-c", READ_AS_ANOTHER_USER, str(images.folder), str(store.folder)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    for folder in (images.folder, store.folder):
        Path(str(folder)).chmod(0o700)
    assert len(said) == 4
    assert all("cannot be read: access is denied" in line for line in said)
    assert all("let this user read" in line for line in said)


def test_a_file_that_is_gone_is_still_missing(tmp_path: Path) -> None:
    images = write_dataset(tmp_path / "images", samples(2), shard_size=2)
    images.records  # noqa: B018  read before
    (tmp_path / "images" / "shards" / "00000.tar").unlink()
    with pytest.raises(CorgiError, match="is missing or damaged"):
        list(images.images("00000"))


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        TimeoutError(errno.ETIMEDOUT, "Connection timed out"),
        TimeoutError(),
        OSError(errno.EHOSTUNREACH, "No route to host"),
    ],
)
def test_a_server_that_does_not_answer_is_no_damage(error: OSError) -> None:
    explained = explained_read_error(error, "/net/data/00000.tar")
    assert explained is not None
    assert explained.problem.startswith("/net/data/00000.tar cannot be read: its server does not")
    assert "run it again" in explained.remedy


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, ""), OSError("it ends within")])
def test_what_is_missing_or_cut_off_is_for_the_caller_to_say(error: OSError) -> None:
    assert explained_read_error(error, "/data/00000.tar") is None
