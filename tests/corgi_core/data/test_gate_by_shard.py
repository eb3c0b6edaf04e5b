"""The gate is a function of a shard: one new picture costs one new shard, and nothing else."""

import os
import select
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from corgi_core.data.arrays import compute_missing
from corgi_core.data.dataset import write_dataset
from corgi_core.data.ingest import ingest
from corgi_core.data.pixels import pixels
from corgi_core.data.quality import gate
from corgi_core.data.shards import Sample
from corgi_core.progress import listening
from tests.helpers.made import SETTINGS, encoded, noise, sample, samples
from tests.helpers.whole import manifest_of, quarantine_of


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def times(folder: Path) -> dict[str, int]:
    return {
        str(f.relative_to(folder)): f.stat().st_mtime_ns
        for f in folder.rglob("*") if "/" in str(f.relative_to(folder))
    }  # fmt: skip


def twins(count: int) -> list[Sample]:
    """Samples of which every third has the pixels of the one two before, in another format."""
    made = samples(count)
    return [
        replace(made[n], image=encoded(noise(made[n - 2].key), "BMP"), suffix="bmp")
        if n % 3 == 2
        else made[n]
        for n in range(count)
    ]


def write_pictures(folder: Path, names: list[str]) -> str:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / f"{name}.png").write_bytes(encoded(noise(name)))
        (folder / f"{name}.txt").write_text(name)
    return str(folder)


def test_one_new_picture_costs_one_shard_of_everything(tmp_path):
    raw, images = tmp_path / "raw", tmp_path / "images"

    def computed(names: list[str]) -> tuple[int, int, int]:
        """Shards computed by the gate, for pixels and for embeddings."""
        source = write_pictures(tmp_path / "in", names)
        gated = gate(ingest("imagefolder", source, raw, SETTINGS, 0), images, SETTINGS)

        def embed(shard: str) -> dict[str, np.ndarray]:
            keys = [key for key, _ in gated.images(shard)]
            return {"keys": np.array(keys), "z": np.zeros((len(keys), 2), np.float16)}

        squares = pixels(gated, tmp_path / "pixels", 8)
        embedded = compute_missing(tmp_path / "embeddings", gated, {}, embed, "embeddings")
        return gated.recomputed, squares.recomputed, embedded.recomputed

    names = [f"{n:02}" for n in range(10)]
    assert computed(names) == (3, 3, 3)
    before = times(images)
    assert computed(names) == (0, 0, 0)
    assert computed(["one more"]) == (1, 1, 1)
    assert before.items() <= times(images).items()


def test_the_result_does_not_depend_on_the_steps_in_which_the_data_came(tmp_path):
    made = twins(14)
    whole = write_dataset(tmp_path / "raw", made, shard_size=3)
    at_once = gate(whole, tmp_path / "at once", SETTINGS)
    for count in (3, 6, 9, 14):
        part = write_dataset(tmp_path / "part", made[:count], shard_size=3)
        stepwise = gate(part, tmp_path / "stepwise", SETTINGS)
    assert contents(at_once.folder) == contents(stepwise.folder)
    assert quarantine_of(at_once)["key"].tolist() == ["0002", "0005", "0008", "0011"]
    assert manifest_of(at_once)["sha256"].is_unique


def test_duplicates_follow_where_an_earlier_shard_changes(tmp_path):
    """A later shard is computed again only where it is another's duplicate, or is so no longer."""
    made = [sample(f"{n}") for n in range(8)]
    made[5] = replace(made[5], image=encoded(noise("0"), "BMP"), suffix="bmp")
    before = gate(write_dataset(tmp_path / "raw", made, shard_size=2), tmp_path / "a", SETTINGS)
    assert quarantine_of(before)["detail"].tolist() == ["has the same pixels as 0"]
    for picture, duplicates, recomputed in (("other", [], 2), ("6", ["6"], 2), ("0", ["5"], 3)):
        made[0] = replace(made[0], image=encoded(noise(picture)))
        raw = write_dataset(tmp_path / "raw", made, shard_size=2)
        now = gate(raw, tmp_path / "a", SETTINGS)
        anew = gate(raw, tmp_path / f"anew {picture}", SETTINGS)
        assert contents(now.folder) == contents(anew.folder)
        assert quarantine_of(now)["key"].tolist() == duplicates
        assert now.recomputed == recomputed


def test_a_shard_of_which_nothing_passes_is_computed_once_and_is_no_shard_of_the_images(tmp_path):
    made = [*samples(4), sample("5", b"no"), sample("6", b""), sample("7")]
    raw = write_dataset(tmp_path / "raw", made, shard_size=2)
    gated = gate(raw, tmp_path / "images", SETTINGS)
    assert (raw.shards[2], gated.shards) == ("00002", ["00000", "00001", "00003"])
    assert len(gated) == 5
    assert quarantine_of(gated)["key"].tolist() == ["5", "6"]
    assert gate(raw, tmp_path / "images", SETTINGS).recomputed == 0


def test_other_settings_and_damage_compute_again(tmp_path):
    raw = write_dataset(tmp_path / "raw", samples(6), shard_size=2)
    images = tmp_path / "images"
    whole = contents(gate(raw, images, SETTINGS).folder)
    for name in (
        "shards/00001.tar", "manifest/00001.parquet", "quarantine/00001.parquet",
        "pixels/00001.parquet",
    ):  # fmt: skip
        (images / name).unlink()
        assert gate(raw, images, SETTINGS).recomputed == 1
        assert contents(images) == whole
    (images / "shards" / "00000.tar").write_bytes(b"torn")
    assert gate(raw, images, SETTINGS).recomputed == 1
    (images / "manifest" / "00000.parquet").write_bytes(b"torn")
    assert gate(raw, images, SETTINGS).recomputed == 1
    assert contents(images) == whole
    assert gate(raw, images, replace(SETTINGS, max_side=4)).recomputed == 3


def test_images_of_an_older_version_are_made_anew(tmp_path):
    raw = write_dataset(tmp_path / "raw", samples(6), shard_size=2)
    anew = contents(gate(raw, tmp_path / "anew", SETTINGS).folder)
    older = tmp_path / "older"
    (older / "shards").mkdir(parents=True)
    for name in ("manifest.parquet", "quarantine.parquet", "shards/00000.tar", "shards/00007.tar"):
        (older / name).write_bytes(b"old")
    assert contents(gate(raw, older, SETTINGS).folder) == anew


def test_kill_minus_nine_at_any_moment(tmp_path):
    """Whole shards are left, which the next run does not compute again."""
    raw, images = write_dataset(tmp_path / "raw", twins(40), shard_size=1), tmp_path / "images"
    heard, said = os.pipe()
    for kill in range(3):
        child = os.fork()  # which has loaded all that the gate needs
        if child == 0:
            with listening(lambda _, done, total: os.write(said, bytes([done]))):
                gate(raw, images, SETTINGS)
            os._exit(0)
        while ord(os.read(heard, 1)) < 10 * (kill + 1):
            pass
        time.sleep(0.003 * kill)
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        assert not (images / "dataset.json").exists()
        while select.select([heard], [], [], 0)[0]:
            os.read(heard, 1)
    os.close(heard)
    os.close(said)
    last = gate(raw, images, SETTINGS)
    assert last.recomputed <= 10
    anew = gate(raw, tmp_path / "anew", SETTINGS)
    assert contents(images) == contents(anew.folder)
    assert len(last) == len(anew) == 27
