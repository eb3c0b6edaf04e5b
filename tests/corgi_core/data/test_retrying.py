"""What could not be read is read again, and nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest

from corgi_core.data.ingest import ingest, retry_failed
from corgi_core.errors import CorgiError
from tests.helpers.made import SETTINGS, encoded, noise, tar_with
from tests.helpers.whole import manifest_of, skipped_of

needs_a_lock = pytest.mark.skipif(
    not Path("/proc/self/mem").exists(), reason="a file that opens but not reads"
)


def failures(folder_or_dataset) -> list[tuple[str, str]]:
    rows = skipped_of(folder_or_dataset, last=True)
    return list(zip(rows["path"], rows["reason"], strict=True))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read, as they are."""
    names: list[str] = []
    real = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        names.append(path.name)
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    return names


@needs_a_lock
def test_files_that_could_not_be_read(tmp_path, opened):
    source = tmp_path / "in"
    source.mkdir()
    for name in "abcd":
        (source / f"{name}.png").write_bytes(encoded(noise(name)))
    for name in ("x", "y"):
        (source / f"{name}.png").symlink_to("/proc/self/mem")  # opens, and cannot be read
    (source / "notes.md").write_text("no image")
    first = ingest("imagefolder", str(source), tmp_path / "raw", SETTINGS, 0)
    assert sorted(manifest_of(first)["key"]) == list("abcd")
    wanted = [("notes.md", "not an image (.md)"), ("x.png", "cannot be read")]
    assert sorted(failures(first)) == [*wanted, ("y.png", "cannot be read")]

    (source / "x.png").unlink()
    (source / "x.png").write_bytes(encoded(noise("x")))
    (source / "new.png").write_bytes(encoded(noise("new")))  # not asked for
    opened.clear()
    second = retry_failed(tmp_path / "raw", SETTINGS, 0)
    assert sorted(opened) == ["x.png", "y.png"]
    assert sorted(manifest_of(second)["key"]) == list("abcdx")
    assert failures(second) == [("y.png", "cannot be read")]
    assert second.shards[: len(first.shards)] == first.shards

    (source / "y.png").unlink()
    third = retry_failed(tmp_path / "raw", SETTINGS, 0)
    assert failures(third) == [("y.png", "cannot be read")]
    assert third.digest == second.digest
    (source / "y.png").write_bytes(encoded(noise("y")))
    assert sorted(manifest_of(retry_failed(tmp_path / "raw", SETTINGS, 0))["key"]) == list("abcdxy")
    with pytest.raises(CorgiError, match="has failed to read anything"):
        retry_failed(tmp_path / "raw", SETTINGS, 0)


@pytest.mark.parametrize("by_reference", [False, True])
def test_a_tar_that_was_torn_amid_others_is_taken_when_it_is_whole(tmp_path, by_reference):
    tars = tmp_path / "web"
    for number in range(3):
        names = [f"{number}-{row}" for row in range(4)]
        tar_with(tars / f"{number}.tar", {f"{name}.png": encoded(noise(name)) for name in names})
    whole = (tars / "1.tar").read_bytes()
    (tars / "1.tar").write_bytes(whole[:1500])
    first = ingest(
        "webdataset", str(tars), tmp_path / "raw", SETTINGS, 0, by_reference=by_reference
    )
    assert len(first) == 8
    assert failures(first) == [("1.tar", "not a whole tar")]

    (tars / "0.tar").rename(tmp_path / "away.tar")
    again = retry_failed(tmp_path / "raw", SETTINGS, 0)  # which reads no other tar
    assert failures(again) == [("1.tar", "not a whole tar")]
    (tars / "1.tar").write_bytes(whole)
    again = retry_failed(tmp_path / "raw", SETTINGS, 0)
    assert len(again) == 12
    assert skipped_of(again, last=True).empty
    (tmp_path / "away.tar").rename(tars / "0.tar")
    assert {image for shard in again.shards for _, image in again.images(shard)} == {
        encoded(noise(f"{number}-{row}")) for number in range(3) for row in range(4)
    }


def test_reading_everything_again_leaves_nothing_to_retry(tmp_path):
    tars = tmp_path / "web"
    for number in range(3):
        tar_with(tars / f"{number}.tar", {f"{number}.png": encoded(noise(f"{number}"))})
    whole = (tars / "1.tar").read_bytes()
    (tars / "1.tar").write_bytes(b"torn")
    ingest("webdataset", str(tars), tmp_path / "raw", SETTINGS, 0)
    (tars / "1.tar").write_bytes(whole)
    assert len(ingest("webdataset", str(tars), tmp_path / "raw", SETTINGS, 0)) == 3
    with pytest.raises(CorgiError, match="no ingest into"):
        retry_failed(tmp_path / "raw", SETTINGS, 0)


def test_a_limit_cannot_hold_when_only_some_files_are_read(tmp_path):
    tars = tmp_path / "web"
    for number in range(3):
        tar_with(tars / f"{number}.tar", {f"{number}.png": encoded(noise(f"{number}"))})
    (tars / "1.tar").write_bytes(b"torn")
    ingest("webdataset", str(tars), tmp_path / "raw", replace(SETTINGS, limit=2), 0)
    with pytest.raises(CorgiError, match="with a limit"):
        retry_failed(tmp_path / "raw", SETTINGS, 0)
