"""Publishing on an S3 server over HTTP, which is moto's: whole or absent, and clear errors."""

from __future__ import annotations

import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator

import pytest
from upath import UPath

from corgi_core.errors import CorgiError
from corgi_core.io import folders, object_store
from corgi_core.io.files import atomic_file, read_json, read_ranges, write_json
from corgi_core.io.folders import (
    atomic_folder,
    copy_folder,
    has_files,
    joining_folder,
    local_folder,
    published,
    remove_folder,
)
from corgi_core.io.markers import GENERATIONS, POINTER
from corgi_core.io.object_store import check_reachable
from tests.helpers.processes import free_port
from tests.helpers.s3 import S3, Door, door_to

WRITER = """
import sys, time
from upath import UPath
from corgi_core.io.files import write_json
from corgi_core.io.folders import atomic_folder, joining_folder
how, path = sys.argv[1], UPath(sys.argv[2])
writing = joining_folder(path, "last.json") if how == "joining_folder" else atomic_folder(path)
with writing as temporary:
    write_json(temporary / "new.json", "new")
    write_json(temporary / "last.json", "new")
    print("written", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def root(s3: S3) -> UPath:
    return s3.path(uuid.uuid4().hex)


@pytest.fixture
def door(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    """What this process asks of the store goes through here."""
    with door_to(s3) as door:
        monkeypatch.setenv("AWS_ENDPOINT_URL", door.endpoint)
        yield door


def write(path: UPath, **contents: str) -> None:
    with atomic_folder(path) as temporary:
        for name, content in contents.items():
            write_json(temporary / f"{name}.json", content)


def read(path: UPath) -> dict[str, str]:
    folder = published(path)
    return {file.stem: read_json(file) for file in folder.iterdir() if file.suffix == ".json"}


def read_elsewhere(path: UPath) -> str:
    """What another process finds there."""
    code = (
        "import sys; from upath import UPath; from corgi_core.io.folders import published\n"
        "folder = published(UPath(sys.argv[1]))\n"
        "print(sorted(file.read_text().strip() for file in folder.glob('*.json')))"
    )
    command = [sys.executable, "-c", code, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_folder_is_replaced_joined_copied_and_removed(s3, root, tmp_path):
    for content in ("old", "new"):
        write(root / "model", **{content: content})
    assert read(root / "model") == {"new": "new"}
    assert len({key.split("/")[2] for key in s3.objects(root.name) if GENERATIONS in key}) == 1
    with joining_folder(root / "model", "last.json") as temporary:
        write_json(temporary / "deep" / "more.json", "more")
        write_json(temporary / "last.json", "last")
        assert read(root / "model") == {"new": "new"}
    assert read(root / "model") == {"new": "new", "last": "last"}
    copy_folder(root / "model", root / "copy")
    copy_folder(root / "copy", tmp_path / "copy")
    with local_folder(root / "copy") as local:
        for folder in (local, tmp_path / "copy"):
            assert read_json(folder / "deep" / "more.json") == "more"
    copy_folder(tmp_path / "copy", root / "back")
    assert read(root / "back") == read(root / "model")
    remove_folder(root / "model")
    remove_folder(root / "model")
    assert not any(key.startswith("model") for key in s3.objects(root.name))


def fail_halfway(path):
    with atomic_file(path) as file:
        file.write_text("half")
        raise RuntimeError


def test_what_fails_leaves_the_old_and_nothing_else(s3, root):
    write(root / "model", old="old")
    before = s3.objects(root.name)

    def fail(writing):
        with writing as temporary:
            write_json(temporary / "new.json", "new")
            raise RuntimeError

    for writing in (atomic_folder(root / "model"), joining_folder(root / "model", "last.json")):
        with pytest.raises(RuntimeError):
            fail(writing)
    assert s3.objects(root.name) == before
    with pytest.raises(RuntimeError):
        fail_halfway(root / "file")
    assert s3.objects(root.name) == before


@pytest.mark.parametrize("how", ["atomic_folder", "joining_folder"])
def test_a_killed_writer_leaves_what_nobody_reads_and_a_day_later_it_goes(
    s3, root, how, monkeypatch
):
    """Killed by SIGKILL with all files written, and nothing published."""
    write(root / "model", old="old")
    command = [sys.executable, "-c", WRITER, how, str(root / "model")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "written\n"
        writer.send_signal(signal.SIGKILL)
    left = [key for key in s3.objects(root.name) if key.endswith("new.json")]
    assert left
    assert read_elsewhere(root / "model") == str(['"old"'])
    write(root / "model", newer="newer")
    assert read(root / "model") == {"newer": "newer"}
    if how == "atomic_folder":  # it could be a living writer's: it stays for a day
        assert left == [key for key in s3.objects(root.name) if key.endswith("new.json")]
        monkeypatch.setattr(folders, "ABANDONED_AFTER", -1)
        write(root / "model", newest="newest")
    assert read(root / "model") in ({"newest": "newest"}, {"newer": "newer"})
    assert not [key for key in s3.objects(root.name) if key.endswith("new.json")]


@pytest.mark.parametrize("published_first", [True, False])
def test_what_a_killed_writer_was_joining_goes_a_day_later_with_the_next_that_joins(
    s3: S3, root: UPath, monkeypatch: pytest.MonkeyPatch, published_first: bool
) -> None:
    if published_first:
        write(root / "set", old="old")
    else:
        write_json(root / "set" / "old.json", "old")
        folders.mark_folder(root / "set", ["old.json"])
    command = [sys.executable, "-c", WRITER, "joining_folder", str(root / "set")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "written\n"
        writer.send_signal(signal.SIGKILL)

    def join(name: str) -> bool:
        """Join a file; whether what the killed writer left is still there."""
        with joining_folder(root / "set", f"{name}.json") as temporary:
            write_json(temporary / f"{name}.json", name)
        return any(key.endswith("new.json") for key in s3.objects(root.name))

    assert join("first")  # it could be a living writer's
    monkeypatch.setattr(folders, "ABANDONED_AFTER", -1)
    assert not join("second")
    assert read(root / "set") == {name: name for name in ("old", "first", "second")}


def test_a_writer_killed_before_anything_was_there_leaves_nothing_to_read(s3, root):
    command = [sys.executable, "-c", WRITER, "atomic_folder", str(root / "model")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "written\n"
        writer.send_signal(signal.SIGKILL)
    assert s3.objects(root.name)
    assert not has_files(root / "model")
    assert published(root / "model") == root / "model"
    write(root / "model", new="new")
    assert has_files(root / "model")


def test_a_pointer_whose_answer_is_lost_stays(root, monkeypatch):
    """The store has written the pointer, and the client does not hear of it."""
    write(root / "model", old="old")
    real = folders.write_json

    def unheard(path, value):
        real(path, value)
        raise TimeoutError

    monkeypatch.setattr(folders, "write_json", unheard)
    with pytest.raises(TimeoutError):
        write(root / "model", new="new")
    assert read(root / "model") == {"new": "new"}


def test_direct_files_go_when_a_generation_replaces_them(s3, root):
    write_json(root / "store" / "index.json", "direct")
    folders.mark_folder(root / "store", ["index.json"])
    write(root / "store", index="published")
    assert read(root / "store") == {"index": "published"}
    keys = [key for key in s3.objects(root.name) if GENERATIONS not in key]
    assert keys == [f"store/{POINTER}"]


def test_a_file_of_others_stays_where_it_is(root):
    (root / "mine" / "cat.jpg").write_text("a picture")
    for path, said in ((root / "mine", r"cat\.jpg"), (root / "mine" / "cat.jpg", "is a file")):
        with pytest.raises(CorgiError, match=said):
            write(path, new="new")
    assert (root / "mine" / "cat.jpg").read_text() == "a picture"


def test_a_large_file_that_fails_halfway_leaves_no_parts(s3, root, door, tmp_path, monkeypatch):
    import boto3

    monkeypatch.setattr(object_store, "PART", 5 << 20)
    door.refused = lambda line: "AccessDenied" if "partNumber=3" in line else None
    with (
        pytest.raises(CorgiError, match=f"access to {root}/large is denied"),
        atomic_file(root / "large") as file,
    ):
        file.write_bytes(b"x" * (12 << 20))
    assert any("partNumber=1" in line for line in door.requests)
    client = boto3.client("s3", endpoint_url=s3.endpoint)
    assert "Uploads" not in client.list_multipart_uploads(Bucket=root.drive)
    assert s3.objects(root.name) == []
    door.refused = lambda _: None
    with atomic_file(root / "large") as file:
        file.write_bytes(b"x" * (12 << 20))
    assert (root / "large").stat().st_size == 12 << 20


def test_access_that_is_denied_in_the_middle_of_a_write_publishes_nothing(root, door):
    write(root / "model", old="old")
    door.refused = lambda line: (
        "AccessDenied" if line.startswith("PUT") and "second.json" in line else None
    )
    with pytest.raises(CorgiError, match=r"access to s3://.*second\.json is denied") as denied:
        write(root / "model", first="new", second="new")
    assert "read, write, list and delete" in denied.value.remedy
    assert read(root / "model") == {"old": "old"}
    door.refused = lambda _: None
    write(root / "model", first="new", second="new")
    assert read(root / "model") == {"first": "new", "second": "new"}


def test_ranges_come_in_their_order_and_by_few_requests(root, door, monkeypatch):
    monkeypatch.setattr(object_store, "GAP", 10)
    monkeypatch.setattr(object_store, "AHEAD", 60)
    content = bytes(range(250))
    (root / "file").write_bytes(content)
    wanted = [(200, 20), (0, 20), (25, 20), (100, 50), (90, 7), (240, 10)]
    door.requests.clear()
    assert list(read_ranges(root / "file", wanted)) == [content[a : a + n] for a, n in wanted]
    # 60 bytes at a time: 0 to 45 and 200 to 220, then 90 to 150 and 240 to 250
    assert len(door.requests) == 2 + 2


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("InvalidAccessKeyId", r"the credentials for s3://.* are refused"),
        ("SignatureDoesNotMatch", r"the credentials for s3://.* are refused"),
        ("AccessDenied", r"access to s3://.* is denied"),
    ],
)
def test_credentials_that_are_refused(root, door, code, said):
    door.refused = lambda _: code
    for act in (check_reachable, published, has_files, lambda path: write(path, new="new")):
        with pytest.raises(CorgiError, match=said):
            act(root)


def test_no_credentials(root, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(CorgiError, match=r"there are no credentials for s3://.*") as none:
        check_reachable(root)
    assert "AWS_ACCESS_KEY_ID" in none.value.remedy


def test_a_bucket_that_is_not_there_is_not_made(s3):
    absent = UPath(f"s3://absent-{uuid.uuid4().hex}/model")
    for act in (check_reachable, published, has_files, lambda path: write(path, new="new")):
        with pytest.raises(CorgiError, match=r"s3://absent-.*: there is no such bucket"):
            act(absent)


def test_an_endpoint_that_does_not_answer(root, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(CorgiError, match=r"s3://.*: the store does not answer") as silent:
        check_reachable(root)
    assert "AWS_ENDPOINT_URL" in silent.value.remedy


def test_s3_without_s3fs():
    code = (
        "import sys; sys.modules['s3fs'] = None\n"
        "from upath import UPath; from corgi_core.io.object_store import check_reachable\n"
        "check_reachable(UPath('s3://bucket/corgi'))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "s3fs, which reads it, is not installed. pip install 'corgi[s3]'." in ended.stderr
