"""New data are new shards: what is there stays, to the byte, and is found again."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from corgi_core.data.dataset import INDEX, Dataset
from corgi_core.data.formats import READERS
from corgi_core.data.ingest import ingest
from corgi_core.errors import CorgiError
from corgi_core.io.files import read_json, write_json
from tests.helpers.made import SETTINGS, encoded, noise, sample, samples
from tests.helpers.whole import manifest_of, skipped_of

SMALL = replace(SETTINGS, shard_size=3, test_fraction=0.3)


def pictures(folder: Path, names: str | list[str], content: str = "") -> str:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.png").write_bytes(encoded(noise(content or name)))
    return str(folder)


def files(folder: Path) -> dict[str, bytes]:
    found = {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    return {name: content for name, content in found.items() if "/" in name}


def added(folder: Path, source: str, **options: object) -> Dataset:
    return ingest("imagefolder", source, folder, SMALL, 0, **options)


def splits_of(dataset: Dataset) -> dict[str, str]:
    return dict(zip(manifest_of(dataset)["key"], manifest_of(dataset)["split"], strict=True))


def reasons(dataset: Dataset, **options: bool) -> list[tuple[str, ...]]:
    return list(skipped_of(dataset, **options).itertuples(index=False, name=None))


def test_new_data_are_new_shards_and_the_others_are_never_written(tmp_path):
    first = added(tmp_path / "raw", pictures(tmp_path / "in", "abcde"))
    before, splits = files(tmp_path / "raw"), splits_of(first)
    more = added(tmp_path / "raw", pictures(tmp_path / "in", "fghij"))
    assert (first.shards, more.shards) == (["00000", "00001"], ["00000", "00001", "00002", "00003"])
    after = files(tmp_path / "raw")
    assert before.items() <= after.items()
    assert sorted(manifest_of(more)["key"]) == list("abcdefghij")
    assert splits.items() <= splits_of(more).items()
    assert {first.shard_digest(s) for s in first.shards} == {
        more.shard_digest(s) for s in more.shards[:2]
    }
    assert more.digest != first.digest
    assert len(list(more.samples())) == len(more) == 10


def test_what_is_there_is_passed_over_and_named(tmp_path):
    added(tmp_path / "raw", pictures(tmp_path / "in", "abc"))
    pictures(tmp_path / "more", ["x"], content="b")  # the same image by another name
    pictures(tmp_path / "more", ["c"], content="other")  # another image by the same name
    again = added(tmp_path / "raw", pictures(tmp_path / "more", "ad"))
    assert sorted(manifest_of(again)["key"]) == list("abcd")
    assert sorted(reasons(again)) == [
        ("a", "already there", "as a"),
        ("c", "key already there", "as c, which is another image"),
        ("x", "already there", "as b"),
    ]
    before, digest = files(tmp_path / "raw"), again.digest
    nothing_new = added(tmp_path / "raw", str(tmp_path / "more"))
    assert nothing_new.digest == digest
    assert before.items() <= files(tmp_path / "raw").items()
    assert len(reasons(nothing_new, last=True)) == 4
    assert len(reasons(nothing_new)) == 7


def test_replaced_data_start_anew(tmp_path):
    added(tmp_path / "raw", pictures(tmp_path / "in", "abcde"))
    other = added(tmp_path / "raw", pictures(tmp_path / "other", "yz"), replaced=True)
    alone = added(tmp_path / "alone", str(tmp_path / "other"))
    assert sorted(manifest_of(other)["key"]) == ["y", "z"]
    assert files(tmp_path / "raw") == files(tmp_path / "alone")
    assert other.digest == alone.digest


def test_a_group_stays_in_its_split_whatever_comes_and_however_it_is_split(tmp_path):
    """Also the group that a split was given because it would have had none."""
    first = added(tmp_path / "raw", pictures(tmp_path / "in", ["a", "b"]))
    assert set(splits_of(first).values()) == {"train", "test"}
    for name in ("a", "b"):  # a group is the path without suffix: twins, as JPEG
        (tmp_path / "in" / f"{name}.jpg").write_bytes(encoded(noise(f"{name}2"), "JPEG"))
    pictures(tmp_path / "in", [f"{n:03}" for n in range(40)])
    for fraction in (0.9, 0.01):
        settings = replace(SMALL, test_fraction=fraction)
        more = ingest("imagefolder", str(tmp_path / "in"), tmp_path / "raw", settings, 7)
    groups = manifest_of(more).groupby("group")["split"].agg(["nunique", "size"])
    assert (groups["nunique"] == 1).all()
    assert groups.loc[["a", "b"], "size"].tolist() == [2, 2]
    assert splits_of(first).items() <= splits_of(more).items()


def test_the_owners_split_is_respected_in_what_comes_later(tmp_path):
    pictures(tmp_path / "one", ["train/a", "train/b", "val/v", "test/c"])
    added(tmp_path / "raw", str(tmp_path / "one"))
    added(tmp_path / "raw", pictures(tmp_path / "two", ["test/d", "val/w"]))
    whole = added(tmp_path / "raw", pictures(tmp_path / "three", [f"{n}" for n in range(9)]))
    wanted = {"train/a": "train", "train/b": "train", "test/c": "test", "test/d": "test"}
    wanted |= {"val/v": "validation", "val/w": "validation"}
    assert splits_of(whole) == wanted | {f"{n}": "train" for n in range(9)}


def test_validation_is_taken_from_the_owners_training_images_and_never_from_the_test(tmp_path):
    pictures(tmp_path / "in", [f"train/{n}" for n in range(60)])
    pictures(tmp_path / "in", [f"test/{n}" for n in range(8)])
    settings = replace(SMALL, validation_fraction=0.2, shard_size=100)
    whole = ingest("imagefolder", str(tmp_path / "in"), tmp_path / "raw", settings, 0)
    splits = splits_of(whole)
    assert {splits[f"test/{n}"] for n in range(8)} == {"test"}
    of_training = [splits[f"train/{n}"] for n in range(60)]
    assert set(of_training) == {"train", "validation"}
    assert 4 <= of_training.count("validation") <= 24
    pictures(tmp_path / "more", [f"train/{n}" for n in range(60, 100)])
    more = ingest("imagefolder", str(tmp_path / "more"), tmp_path / "raw", settings, 0)
    assert splits.items() <= splits_of(more).items()
    assert set(splits_of(more).values()) == {"train", "validation", "test"}


def test_an_owners_validation_is_the_test_of_data_without_one_and_of_what_comes_later(tmp_path):
    first = added(tmp_path / "raw", pictures(tmp_path / "in", ["train/a", "train/b", "val/c"]))
    assert splits_of(first)["val/c"] == "test"
    more = added(tmp_path / "raw", pictures(tmp_path / "in", ["val/d"]))
    assert splits_of(more)["val/d"] == "test"
    assert sorted(splits_of(more).values()) == ["test", "test", "train", "validation"]


def test_the_first_ingest_decides_what_the_owners_validation_is_for(tmp_path):
    added(tmp_path / "raw", pictures(tmp_path / "in", ["train/a", "train/b", "val/c"]))
    added(tmp_path / "raw", pictures(tmp_path / "in", ["test/d", "val/e"]))
    splits = splits_of(added(tmp_path / "raw", pictures(tmp_path / "in", ["val/f", "test/g"])))
    assert {splits[key] for key in splits if not key.startswith("train")} == {"test"}
    assert {splits["train/a"], splits["train/b"]} == {"train", "validation"}


def test_nothing_is_added_to_data_of_before_there_was_a_validation_split(tmp_path):
    first = added(tmp_path / "raw", pictures(tmp_path / "in", "abcdefgh"))
    index = read_json(first.folder / INDEX)
    write_json(first.folder / INDEX, {k: v for k, v in index.items() if k != "owners_splits"})
    before = files(tmp_path / "raw")
    with pytest.raises(CorgiError, match="older version") as error:
        added(tmp_path / "raw", pictures(tmp_path / "in", "xyz"))
    assert "--replace" in error.value.remedy
    assert files(tmp_path / "raw") == before
    assert len(added(tmp_path / "raw", str(tmp_path / "in"), replaced=True)) == 11


def test_data_that_have_no_validation_get_some_from_what_is_added(tmp_path):
    first = added(tmp_path / "raw", pictures(tmp_path / "in", "ab"))
    assert set(splits_of(first).values()) == {"train", "test"}
    more = added(tmp_path / "raw", pictures(tmp_path / "in", "cd"))
    assert "validation" in splits_of(more).values()
    assert splits_of(first).items() <= splits_of(more).items()


def test_a_fault_leaves_the_dataset_as_it_was(tmp_path):
    source = pictures(tmp_path / "in", "abcde")
    added(tmp_path / "raw", source)
    before = files(tmp_path) | {"index": (tmp_path / "raw" / "dataset.json").read_bytes()}
    pictures(tmp_path / "in", "xyz")
    with pytest.raises(CorgiError, match="headline"):
        added(tmp_path / "raw", source, caption_column="headline")
    (tmp_path / "none").mkdir()
    with pytest.raises(CorgiError, match="holds no images"):
        added(tmp_path / "raw", str(tmp_path / "none"))
    for name in "xyz":
        (tmp_path / "in" / f"{name}.png").unlink()
    assert before == files(tmp_path) | {"index": (tmp_path / "raw" / "dataset.json").read_bytes()}


def test_a_key_that_comes_twice_in_what_is_new_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(READERS, "twice", lambda *_: iter([*samples(7), sample("0002", b"x")]))
    with pytest.raises(CorgiError, match="two images have the key '0002'"):
        ingest("twice", str(tmp_path), tmp_path / "out" / "raw", SMALL, 0)
    assert not list((tmp_path / "out").iterdir())


def test_two_processes_do_not_add_at_once(tmp_path, monkeypatch):
    source = pictures(tmp_path / "in", "abc")
    first = added(tmp_path / "raw", source)
    monkeypatch.setitem(READERS, "meanwhile", lambda *_: iter([added(tmp_path / "raw", source)]))
    for replaced in (False, True):
        with pytest.raises(CorgiError, match="another process is adding to"):
            ingest("meanwhile", source, tmp_path / "raw", SMALL, 0, replaced=replaced)
    assert Dataset.load(tmp_path / "raw").digest == first.digest


def test_what_another_process_added_meanwhile_is_never_removed(tmp_path, monkeypatch):
    """It was loaded before that, and written after."""
    source = pictures(tmp_path / "in", "abc")
    stale = added(tmp_path / "raw", source)
    assert stale.index
    fresh = added(tmp_path / "raw", pictures(tmp_path / "in", "defg"))
    before = files(tmp_path / "raw")
    monkeypatch.setattr("corgi_core.data.ingest._present", lambda _: stale)
    with pytest.raises(CorgiError, match=r"has changed .* meanwhile"):
        added(tmp_path / "raw", pictures(tmp_path / "other", "z"))
    assert files(tmp_path / "raw") == before
    assert Dataset.load(tmp_path / "raw").digest == fresh.digest


def test_pictures_and_embeddings_do_not_mix(tmp_path):
    from tests.helpers.vectors_on_disk import rows, write_parquet

    added(tmp_path / "raw", pictures(tmp_path / "in", "abc"))
    table = write_parquet(tmp_path / "clip.parquet", rows(1))
    with pytest.raises(CorgiError, match="precomputed embeddings, and the dataset holds pictures"):
        ingest("embeddings", str(table), tmp_path / "raw", SMALL, 0)


def in_a_child(work: Callable[[], object]) -> int:
    """Start `work` in a copy of this process, which has loaded all that it needs."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def test_kill_minus_nine_at_any_moment(tmp_path):
    """Killed a little later each time; what was there is there, and the last run adds all."""
    source = pictures(tmp_path / "in", [f"{n}" for n in range(4)])
    folder = tmp_path / "raw"
    digest = added(folder, source).digest
    before = files(folder)
    pictures(tmp_path / "in", [f"{n:03}" for n in range(24)])
    started = time.monotonic()
    whole = added(tmp_path / "anew", source)
    needed, killed = time.monotonic() - started, 0
    for tenth in range(1, 11, 2):
        child = in_a_child(lambda: added(folder, source))
        time.sleep(needed * tenth / 10)
        os.kill(child, signal.SIGKILL)
        killed += os.waitpid(child, 0)[1] == signal.SIGKILL
        dataset = Dataset.load(folder)
        assert before.items() <= files(folder).items()
        assert dataset.digest == digest or len(dataset) == 28
        assert sum(len(list(dataset.images(shard))) for shard in dataset.shards) == len(dataset)
    assert killed
    more = added(folder, source)
    assert sorted(manifest_of(more)["key"]) == sorted(manifest_of(whole)["key"])
    names = {f"{part}/{shard}" for shard in more.shards for part in ("shards", "manifest")}
    assert names == {n.rpartition(".")[0] for n in files(folder) if not n.startswith("skipped")}
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []


def test_files_that_a_killed_run_had_moved_are_written_anew(tmp_path):
    source = pictures(tmp_path / "in", "abc")
    first = added(tmp_path / "raw", source)
    index = (tmp_path / "raw" / "dataset.json").read_bytes()
    added(tmp_path / "raw", pictures(tmp_path / "in", "defgh"))
    (tmp_path / "raw" / "dataset.json").write_bytes(index)  # killed before the last file
    assert Dataset.load(tmp_path / "raw").digest == first.digest
    again = added(tmp_path / "raw", pictures(tmp_path / "other", "z"))
    assert again.shards == ["00000", "00001"]
    assert sorted(manifest_of(again)["key"]) == list("abcz")
    assert not (tmp_path / "raw" / "shards" / "00002.tar").exists()
