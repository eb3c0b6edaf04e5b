"""Shards and manifest: nothing lost, the same bytes every time, whole or absent."""

import pickle
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import webdataset
from upath import UPath

from corgi_core.data.dataset import Dataset, caption_of, write_dataset
from corgi_core.errors import CorgiError
from tests.helpers.made import encoded, noise, sample, samples
from tests.helpers.whole import manifest_of

ROOT = Path(__file__).parents[3]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_what_is_written_is_read(tmp_path):
    written = [
        sample("a/one", encoded(noise("1"), "JPEG"), suffix="jpg"),
        sample("b", captions=["ein Äpfel", "two\nlines"]),
        sample("c", captions=None, split="test", group="g"),
        sample("d", captions=[]),
        sample("é", image=b""),
    ]
    dataset = write_dataset(tmp_path / "set", written, shard_size=2)
    assert list(dataset.samples()) == written
    assert dataset.shards == ["00000", "00001", "00002"]
    assert dict(dataset.images("00001")) == {s.key: s.image for s in written[2:4]}
    row = manifest_of(dataset).iloc[0]
    assert (row.key, row.shard, row.width, row.height) == ("a/one", "00000", 8, 8)
    assert manifest_of(dataset)["captions"].tolist() == [s.captions for s in written]
    assert manifest_of(dataset)["width"].isna().tolist() == [False, False, False, False, True]


def test_the_same_samples_give_the_same_bytes(tmp_path):
    write_dataset(tmp_path / "first", samples(10), shard_size=4)
    write_dataset(tmp_path / "second", iter(samples(10)), shard_size=4)
    assert contents(tmp_path / "first") == contents(tmp_path / "second")
    with tarfile.open(tmp_path / "first/shards/00000.tar") as tar:
        members = tar.getmembers()
    assert {(m.mtime, m.uid, m.gid, m.mode) for m in members} == {(0, 0, 0, 0o644)}
    assert [m.name for m in members] == sorted(m.name for m in members)


def test_the_webdataset_library_reads_our_shards(tmp_path):
    write_dataset(tmp_path / "set", samples(5), shard_size=5)
    url = str(tmp_path / "set/shards/00000.tar")
    theirs = list(webdataset.WebDataset(url, shardshuffle=False))
    assert [(s["__key__"], s["png"], s["txt"].decode()) for s in theirs] == [
        (s.key, s.image, s.captions[0]) for s in samples(5)
    ]


def test_the_digest_names_the_content_as_it_is_sharded(tmp_path):
    first = write_dataset(tmp_path / "4", samples(10), shard_size=4)
    again = write_dataset(tmp_path / "again", samples(10), shard_size=4)
    assert first.digest == again.digest
    assert write_dataset(tmp_path / "3", samples(10), shard_size=3).digest != first.digest
    for number, change in enumerate(
        [{"captions": None}, {"split": "other"}, {"image": b"x"}, {"key": "new"}]
    ):
        changed = [replace(samples(1)[0], **change), *samples(10)[1:]]
        other = write_dataset(tmp_path / f"changed{number}", changed, shard_size=4)
        assert other.digest != first.digest, change
        assert other.shard_digest("00001") == first.shard_digest("00001")
        assert (other.shard_digest("00000") == first.shard_digest("00000")) == ("split" in change)


def test_a_failure_leaves_what_was_there(tmp_path):
    def failing():
        yield from samples(6)
        raise RuntimeError("the disk is gone")

    before = write_dataset(tmp_path / "set", samples(3), shard_size=2).digest
    with pytest.raises(RuntimeError):
        write_dataset(tmp_path / "set", failing(), shard_size=2)
    assert Dataset.load(tmp_path / "set").digest == before
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("keys", [("a", "a"), ("a", "b.c"), ("", "b"), ("a", "b\0"), ("c/", "d")])
def test_keys_that_a_tar_could_not_tell_apart_are_refused(tmp_path, keys):
    with pytest.raises(CorgiError, match="key"):
        write_dataset(tmp_path / "set", map(sample, keys), shard_size=1)
    assert not (tmp_path / "set").exists()


def test_one_caption_stands_for_an_image():
    assert caption_of(["a cat", "a pet", "an animal"]) == "a cat"
    assert [caption_of(none) for none in (None, [])] == [None, None]


def test_no_record_of_the_shards_no_dataset(tmp_path):
    write_dataset(tmp_path, samples(2), shard_size=2)
    (tmp_path / "dataset.json").unlink()
    with pytest.raises(CorgiError, match=r"no dataset\.json"):
        Dataset.load(tmp_path)


def test_a_dataset_of_an_older_version_is_refused_with_a_remedy(tmp_path):
    (tmp_path / "manifest.parquet").write_bytes(b"")
    with pytest.raises(CorgiError, match="older version") as refused:
        Dataset.load(tmp_path)
    assert "--replace" in refused.value.remedy
    newer = write_dataset(tmp_path / "new", samples(2), shard_size=2)
    text = (newer.folder / "dataset.json").read_text()
    (newer.folder / "dataset.json").write_text(text.replace('"format": 2', '"format": 3'))
    with pytest.raises(CorgiError, match="format 3, this version reads 2"):
        Dataset.load(newer.folder)


def test_counts_shards_length_and_digests_read_no_manifest(tmp_path):
    made = [
        sample("a", split="train", source="one"),
        sample("b", split="test", source="one", captions=None),
        sample("c", split="train", source="two", captions=["x", "y"]),
        sample("d", split="train", source="one", captions=[]),
        sample("e", image=b"no picture", split="train", source="one"),
    ]
    written = write_dataset(tmp_path / "set", made, shard_size=2)
    shutil.rmtree(tmp_path / "set" / "manifest")
    dataset = Dataset.load(tmp_path / "set")
    assert (len(dataset), dataset.shards) == (5, ["00000", "00001", "00002"])
    assert (dataset.digest, dataset.holds_pictures) == (written.digest, True)
    assert dataset.shard_digest("00001") == written.shard_digest("00001")
    assert dataset.counts.to_dict("split")["data"] == [
        ["one", "test", 1, 1, 0, 0],
        ["one", "train", 3, 2, 3, 2],
        ["two", "train", 1, 1, 1, 2],
    ]
    with pytest.raises(CorgiError, match=r"manifest/00000\.parquet is missing or damaged"):
        dataset.rows("00000")


def test_rows_come_a_shard_at_a_time_and_together_are_the_manifest(tmp_path):
    dataset = write_dataset(tmp_path / "set", samples(7), shard_size=3)
    assert [rows["key"].tolist() for rows in dataset.iter_rows("key")] == [
        [f"{n:04d}" for n in range(start, min(start + 3, 7))] for start in (0, 3, 6)
    ]
    every = pd.concat([*dataset.iter_rows()])
    assert every["key"].tolist() == [f"{n:04d}" for n in range(7)]
    for split in ("train", "test"):
        rows = every[every["split"] == split]
        assert dataset.keys(split) == tuple(sorted(rows["key"]))


@pytest.mark.parametrize("fault", ["missing", "cut"])
def test_a_shard_that_is_lost_or_torn_is_one_sentence(tmp_path, fault):
    dataset = write_dataset(tmp_path / "set", samples(6), shard_size=2)
    tar = tmp_path / "set" / "shards" / "00001.tar"
    whole = tar.read_bytes()
    tar.unlink()
    if fault == "cut":
        tar.write_bytes(whole[:700])
    with pytest.raises(CorgiError, match=r"shards/00001\.tar is missing or damaged"):
        list(dataset.samples())


def test_saving_copies_to_any_storage_and_pickles_as_a_folder(tmp_path):
    dataset = write_dataset(UPath(tmp_path / "set"), samples(5), shard_size=2)
    remote = UPath("memory://test_dataset/copy")
    dataset.save(remote)
    Dataset.load(remote).save(tmp_path / "back")
    assert contents(tmp_path / "back") == contents(tmp_path / "set")
    dataset.save(dataset.folder)  # onto itself: nothing is lost
    assert len(dataset) == 5
    assert "index" not in vars(pickle.loads(pickle.dumps(dataset)))
    assert pickle.loads(pickle.dumps(Dataset.load(remote))).digest == dataset.digest


def test_data_need_no_torch():
    modules = sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "corgi_core" / "data").rglob("*.py")
    )
    heavy = ("torch", "great_expectations", "dagster", "ray", "mlflow", "webdataset")
    program = f"import sys, {', '.join(modules)}; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"


@pytest.mark.parametrize("read", ["samples", "images"])
def test_an_image_with_other_bytes_or_another_key_is_refused_by_name(tmp_path, read):
    dataset = write_dataset(tmp_path / "set", samples(4), shard_size=2)
    tar = dataset.tar("00001")
    whole, changed = tar.read_bytes(), bytearray(tar.read_bytes())
    changed[whole.index(b"IDAT") + 8] ^= 1
    for content, said in (
        (bytes(changed), "00001.tar is missing or damaged .the image 0002 has other bytes"),
        (whole.replace(b"0003.png", b"0009.png"), "00001.tar .* other images than its manifest"),
        (dataset.tar("00000").read_bytes(), "00001.tar .* other images than its manifest"),
    ):
        tar.write_bytes(content)
        with pytest.raises(CorgiError, match=said) as refused:
            list(getattr(dataset, read)("00001"))
        assert "bring that file back" in refused.value.remedy
