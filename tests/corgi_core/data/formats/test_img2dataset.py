"""img2dataset's output: tars joined with their Parquets, failures named, a torn file one loss."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from corgi_core.data.formats import READERS
from corgi_core.data.ingest import ingest
from corgi_core.errors import CorgiError
from tests.helpers.made import SETTINGS, encoded, noise, tar_with
from tests.helpers.readings import reading, reasons
from tests.helpers.whole import skipped_of

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("caption", "url", "key", "status", "error_message")]
    + [(name, pa.int32()) for name in ("width", "height", "original_width", "original_height")]
    + [("exif", pa.string()), ("sha256", pa.string())]
)
NOT_FOUND = "HTTP Error 404: Not Found"


def row(key: str, caption: str | None, error: str = "", status: str = "") -> dict[str, Any]:
    """A row of the Parquet, which is also KEY.json where the download succeeded."""
    size = None if error else 8
    about = dict.fromkeys(("width", "height", "original_width", "original_height"), size)
    return {
        "caption": caption, "url": f"https://example.org/{key}.jpg", "key": key, **about,
        "status": status or ("failed_to_download" if error else "success"),
        "error_message": error or None, "exif": None if error else "{}",
        "sha256": None if error else "0" * 64,
    }  # fmt: skip


def image(key: str) -> bytes:
    return encoded(noise(key), "JPEG")


def write_shard(folder: Path, number: int, rows: list[dict[str, Any]]) -> None:
    """A tar, its Parquet and its counts, as img2dataset writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    members: dict[str, bytes | str] = {}
    for each in rows:
        if each["status"] == "success":
            key = each["key"]
            members[f"{key}.jpg"] = image(key)
            members[f"{key}.txt"] = each["caption"] or ""  # as img2dataset has it
            members[f"{key}.json"] = json.dumps(each, indent=4)
    tar_with(folder / f"{number:05d}.tar", members)
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / f"{number:05d}.parquet")
    counts = {"count": len(rows), "successes": len(members) // 3, "status_dict": {}}
    (folder / f"{number:05d}_stats.json").write_text(json.dumps(counts))


@pytest.fixture
def cc3m(tmp_path: Path) -> UPath:
    """Three shards of three rows, one of which failed in each."""
    folder = tmp_path / "cc3m"
    for number in range(3):
        keys = [f"{number:05d}000{n}" for n in range(3)]
        write_shard(
            folder, number,
            [row(keys[0], f"caption {keys[0]}"), row(keys[1], None, NOT_FOUND),
             row(keys[2], f"caption {keys[2]}")],
        )  # fmt: skip
    return UPath(folder)


SUCCESSFUL = [f"0000{shard}000{n}" for shard in range(3) for n in (0, 2)]
FAILED = {f"0000{shard}.parquet: 0000{shard}0001": "failed_to_download" for shard in range(3)}


def repacked(tar: Path, change: dict[str, bytes | None], more: list[str] | None = None) -> None:
    """Write a tar again with other contents (None: without), and some members a second time."""
    with tarfile.open(tar) as old:
        members = [(m.name, old.extractfile(m).read()) for m in old.getmembers()]  # type: ignore[union-attr]
    members = [(name, change.get(name, content)) for name, content in members]
    members += [(name, dict(members)[name]) for name in more or []]
    with tarfile.open(tar, "w") as new:
        for name, content in members:
            if content is not None:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                new.addfile(info, io.BytesIO(content))


def test_images_with_captions_and_failures_with_their_reasons(cc3m: UPath) -> None:
    samples, skipped = reading("img2dataset", cc3m)
    assert {key: s.captions for key, s in samples.items()} == {
        key: [f"caption {key}"] for key in SUCCESSFUL
    }
    assert all(s.image == image(key) and s.suffix == "jpg" for key, s in samples.items())
    assert {(s.split, s.source) for s in samples.values()} == {(None, "cc3m")}
    assert reasons(skipped) == FAILED
    assert {each.detail for each in skipped.values()} == {NOT_FOUND}


def test_the_parquets_caption_is_used_where_the_tar_has_none(cc3m: UPath) -> None:
    first, second = SUCCESSFUL[:2]
    sidecars: dict[str, bytes | None] = {
        f"{first}.txt": None, f"{first}.json": None, f"{second}.txt": b" ",
    }  # fmt: skip
    repacked(Path(str(cc3m / "00000.tar")), sidecars)
    repacked(Path(str(cc3m / "00001.tar")), {f"{SUCCESSFUL[2]}.txt": b"of the tar"})
    samples, _ = reading("img2dataset", cc3m)
    assert samples[first].captions == [f"caption {first}"]
    assert samples[second].captions == [f"caption {second}"]
    assert samples[SUCCESSFUL[2]].captions == ["of the tar"]


def test_folders_and_patterns_give_keys_and_splits(tmp_path: Path) -> None:
    for split in ("train", "val"):
        rows = [row("000000000", split), row("000000001", None, NOT_FOUND)]
        write_shard(tmp_path / "cc3m" / split, 0, rows)
    expected = {
        "train/000000000": ("train", ["train"]),
        "val/000000000": ("validation", ["val"]),
    }
    for path in ("cc3m", "cc3m/{train,val}/00000.tar"):
        samples, skipped = reading("img2dataset", UPath(tmp_path / path))
        assert {key: (s.split, s.captions) for key, s in samples.items()} == expected
        assert {s.source for s in samples.values()} == {"cc3m"}
        assert reasons(skipped) == {
            f"{split}/00000.parquet: 000000001": "failed_to_download" for split in ("train", "val")
        }


def test_a_torn_tar_costs_itself_alone(cc3m: UPath, tmp_path: Path) -> None:
    tar = Path(str(cc3m / "00001.tar"))
    tar.write_bytes(tar.read_bytes()[: 3 * 512 + 100])
    samples, skipped = reading("img2dataset", cc3m)
    assert list(samples) == [*SUCCESSFUL[:2], *SUCCESSFUL[4:]]
    assert reasons(skipped) == {**FAILED, "00001.tar": "a tar that cannot be read"}
    assert "2 images are lost" in skipped["00001.tar"].detail
    assert "copy or download it again" in skipped["00001.tar"].detail
    raw = ingest("img2dataset", str(cc3m), tmp_path / "raw", SETTINGS, 0)
    assert len(raw) == 4
    assert len(skipped_of(raw)) == 4


def test_a_torn_parquet_costs_itself_alone(cc3m: UPath) -> None:
    for number, content in enumerate((b"PAR1 and no more", None, b"")):
        table = Path(str(cc3m / f"0000{number}.parquet"))
        table.unlink() if content is None else table.write_bytes(content)
    samples, skipped = reading("img2dataset", cc3m)
    assert list(samples) == SUCCESSFUL
    assert reasons(skipped) == {
        "00000.parquet": "a Parquet that cannot be read",
        "00001.parquet": "a Parquet that is not there",
        "00002.parquet": "a Parquet that cannot be read",
    }


def test_damage_in_the_middle_of_a_parquet_costs_itself_alone(cc3m: UPath) -> None:
    table = Path(str(cc3m / "00000.parquet"))
    content = bytearray(table.read_bytes())
    content[4:400] = bytes(396)
    table.write_bytes(content)
    samples, skipped = reading("img2dataset", cc3m)
    assert list(samples) == SUCCESSFUL
    assert skipped["00000.parquet"].reason == "a Parquet that cannot be read"


def test_what_is_missing_or_there_twice_is_named(cc3m: UPath) -> None:
    folder = Path(str(cc3m))
    (folder / "00002.tar").unlink()
    (folder / "notes.md").write_text("mine")
    first, second = SUCCESSFUL[:2]
    repacked(folder / "00000.tar", {}, [f"{first}.jpg", f"{first}.txt"])
    keys = [row(key, "x") for key in ("000010000", "000010002", "000010003", "000010000")]
    failed = row("000010004", None, "image decoding error", "failed_to_resize")
    pq.write_table(pa.Table.from_pylist([*keys, failed], SCHEMA), folder / "00001.parquet")
    samples, skipped = reading("img2dataset", cc3m)
    assert list(samples) == SUCCESSFUL[:4]
    assert samples[first].captions == [f"caption {first}"]
    assert samples[second].captions == [f"caption {second}"]
    assert reasons(skipped) == {
        "notes.md": "not a tar",
        "00002.parquet": "a Parquet without its tar",
        "00000.parquet: 000000001": "failed_to_download",
        f"00000.tar: {first}.jpg": "a key that is there before",
        f"00000.tar: {first}.txt": "a key that is there before",
        "00001.parquet: 000010000": "a key that is there before",
        "00001.tar: 000010003": "downloaded, but not in the tar",
        "00001.parquet: 000010004": "failed_to_resize",
    }
    assert "run img2dataset again" in skipped["00002.parquet"].detail


def test_bytes_that_are_not_utf8_and_empty_captions_are_left_to_the_gate(cc3m: UPath) -> None:
    first, second = SUCCESSFUL[:2]
    repacked(Path(str(cc3m / "00000.tar")), {f"{first}.txt": b"caf\xe9", f"{second}.txt": b""})
    table = pq.read_table(str(cc3m / "00000.parquet")).to_pylist()
    blank = [{**each, "caption": None} for each in table]
    pq.write_table(pa.Table.from_pylist(blank, SCHEMA), str(cc3m / "00000.parquet"))
    samples, _ = reading("img2dataset", cc3m)
    assert samples[first].captions == ["caf\ufffd"]
    assert samples[second].captions == [""]


def test_a_caption_column_of_the_sidecar_or_of_the_parquet(cc3m: UPath) -> None:
    first = SUCCESSFUL[0]
    table = pq.read_table(str(cc3m / "00000.parquet"))
    alt = pa.array([f"alt {n}" for n in range(3)])
    pq.write_table(table.append_column("alt", alt), str(cc3m / "00000.parquet"))
    assert reading("img2dataset", cc3m, "alt")[0][first].captions == ["alt 0"]
    assert reading("img2dataset", cc3m, "url")[0][first].captions == [
        f"https://example.org/{first}.jpg"
    ]
    with pytest.raises(CorgiError, match=r"'headline'.*caption, .*url"):
        reading("img2dataset", cc3m, "headline")


def test_a_wrong_folder_is_answered_with_the_right_one(tmp_path: Path) -> None:
    (tmp_path / "files" / "00000").mkdir(parents=True)
    (tmp_path / "files" / "00000" / "000000000.jpg").write_bytes(image("x"))
    for path, words in (
        ("files", ["holds no tars", "--output_format webdataset", "--format imagefolder"]),
        ("gone", ["no tar shards", "gone"]),
    ):
        with pytest.raises(CorgiError) as error:
            list(READERS["img2dataset"](UPath(tmp_path / path), None))
        assert all(word in str(error.value) for word in words), str(error.value)
