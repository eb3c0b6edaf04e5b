"""Two folders of pictures: compared by their features, and refused where they cannot be."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from corgi_core.errors import CorgiError
from corgi_core.evaluation.picture_folders import FolderFeatures, compared
from corgi_core.metrics.frechet import FeatureStatistics, frechet_distance
from corgi_core.metrics.vendi import vendi
from orchestration.cli.app import cli

COUNT, SIDE = 60, 8


class Pixels:
    """Every seventh pixel as features."""

    digest = "pixels"

    def __call__(self, images: torch.Tensor) -> np.ndarray:
        return images.flatten(1)[:, ::7].numpy()


def write(
    folder: Path,
    seed: int,
    suffix: str = "png",
    side: int = SIDE,
    count: int = COUNT,
    bars: bool = False,
) -> Path:
    folder.mkdir()
    pixels = np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)
    if bars:
        pixels[:, [0, -1]] = 255
    for number, each in enumerate(pixels):
        Image.fromarray(each).save(folder / f"{number:03}.{suffix}")
    return folder


def features(folder: Path) -> FolderFeatures:
    return FolderFeatures.of(folder, "inception", Pixels())


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("sets") / "real", seed=0)


@pytest.fixture(scope="module")
def of_real(real: Path) -> FolderFeatures:
    return features(real)


def test_the_metrics_are_those_of_all_pictures(of_real: FolderFeatures, tmp_path: Path) -> None:
    other = write(tmp_path / "other", seed=1)
    found = compared(of_real, features(other))
    a, b = (
        np.stack([np.asarray(Image.open(p)) / 255 for p in sorted(Path(folder).iterdir())])
        .transpose(0, 3, 1, 2)
        .reshape(COUNT, -1)[:, ::7]
        for folder in (of_real.folder, other)
    )
    expected = frechet_distance(FeatureStatistics.of(a), FeatureStatistics.of(b))
    assert found["fid"] == pytest.approx(expected, rel=1e-4)
    assert found["vendi"] == pytest.approx(vendi(b))
    assert found["count"] == found["real_count"] == COUNT


@pytest.mark.parametrize("count", [COUNT, 52])
def test_every_score_of_two_sets_stands_in_its_interval(
    of_real: FolderFeatures, tmp_path: Path, count: int
) -> None:
    """Also where the sets are of other sizes, so that no picture belongs to another."""
    found = compared(of_real, features(write(tmp_path / "other", seed=6, count=count)))
    scores = {"fid", "kid", "precision", "recall", "density", "coverage", "vendi"}
    ends = {f"{name}{end}" for name in scores for end in ("_ci_low", "_ci_high")}
    assert found.keys() == scores | ends | {"fid_bias", "vendi_bias", "count", "real_count"}
    for name in scores:
        low, high = found[f"{name}_ci_low"], found[f"{name}_ci_high"]
        assert low <= found[name] <= high, name
        assert low < high or found[name] == 1, name


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"suffix": "jpg"}, "differ in encoding: .* has PNG, .* has JPEG"),
        ({"side": 9}, "differ in size: .* has 8, .* has 9"),
        ({"bars": True}, "0% .* and 100% .*: one set is letterboxed"),
    ],
)
def test_sets_that_differ_in_more_than_what_they_show_are_refused(
    of_real: FolderFeatures, tmp_path: Path, others: dict, message: str
) -> None:
    with pytest.raises(CorgiError, match=message):
        compared(of_real, features(write(tmp_path / "other", seed=1, **others)))


def test_28_pictures_are_too_few_for_fid(of_real: FolderFeatures, tmp_path: Path) -> None:
    with pytest.raises(CorgiError, match="28 pictures are too few for FID"):
        compared(of_real, features(write(tmp_path / "other", seed=1, count=28)))


def test_pictures_on_a_plain_background_are_not_letterboxed(
    of_real: FolderFeatures, tmp_path: Path
) -> None:
    """As emoji and products are, compared with pictures that fill their squares."""
    plain = write(tmp_path / "plain", seed=1)
    for path in plain.iterdir():
        pixels = np.array(Image.open(path))
        pixels[[0, -1]] = pixels[:, [0, -1]] = 255
        Image.fromarray(pixels).save(path)
    assert features(plain).prepared.bars == 0
    assert compared(of_real, features(plain))["fid"] > 0


def test_a_folder_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    folder, file = write(tmp_path / "pictures", seed=5, count=4), tmp_path / "real.safetensors"
    features(folder).save(file)

    class Writing(Pixels):
        def __call__(self, images: torch.Tensor) -> np.ndarray:
            (folder / "late.png").write_bytes((folder / "000.png").read_bytes())
            return super().__call__(images)

    with pytest.raises(CorgiError, match="changed while they were read"):
        FolderFeatures.of(folder, "inception", Writing())
    (folder / "late.png").unlink()
    assert FolderFeatures.load(file, Pixels()).prepared.size == SIDE
    os.utime(folder / "000.png", ns=(0, 1))  # another picture may have as many bytes
    with pytest.raises(CorgiError, match="have changed since"):
        FolderFeatures.load(file, Pixels())


def test_features_of_another_network_are_refused(of_real: FolderFeatures) -> None:
    with pytest.raises(CorgiError, match="of inception pixels and of inception others"):
        compared(of_real, replace(of_real, weights="others"))


def test_a_set_of_unlike_damaged_or_no_pictures_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "pictures", seed=2, count=6)
    for number in range(4):
        path = folder / f"{number:03}.png"
        path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CorgiError, match=r"000\.png.* and 1 more cannot be read as pictures"):
        features(folder)
    mixed = write(tmp_path / "mixed", seed=2, count=3)
    Image.new("RGB", (SIDE, SIDE)).save(mixed / "z.jpg")
    with pytest.raises(CorgiError, match="not alike: JPEG of 8², PNG of 8²"):
        features(mixed)
    Image.new("RGB", (SIDE, 2 * SIDE)).save(mixed / "z.png")
    with pytest.raises(CorgiError, match="8 × 16 pixels and is no square"):
        features(mixed)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorgiError, match="no pictures"):
        features(tmp_path / "empty")


def test_stored_features_are_those_again_or_refused(tmp_path: Path) -> None:
    folder, file = write(tmp_path / "pictures", seed=3, count=5), tmp_path / "real.safetensors"
    of_folder = features(folder)
    of_folder.save(file)
    again = FolderFeatures.load(file, Pixels())
    np.testing.assert_array_equal(again.features, of_folder.features)
    assert again.prepared == of_folder.prepared

    class Others(Pixels):
        digest = "others"

    with pytest.raises(CorgiError, match="inception pixels, and the other set's are of others"):
        FolderFeatures.load(file, Others())
    Image.new("RGB", (SIDE, SIDE)).save(folder / "another.png")
    with pytest.raises(CorgiError, match="have changed since"):
        FolderFeatures.load(file, Pixels())
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(CorgiError, match="holds no features"):
        FolderFeatures.load(file, Pixels())


class Inception(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().mean(dim=(2, 3))


def test_the_command_prints_all_metrics_and_reads_what_it_has_saved(
    real: Path, tmp_path: Path
) -> None:
    net, other = tmp_path / "net.pt", write(tmp_path / "other", seed=4)
    torch.jit.script(Inception()).save(str(net))
    saved, weights = tmp_path / "real.safetensors", ["--inception", str(net)]
    first = CliRunner().invoke(
        cli, ["metrics", str(real), str(other), *weights, "--save", str(saved)]
    )
    again = CliRunner().invoke(cli, ["metrics", str(saved), str(other), *weights])
    assert first.exit_code == again.exit_code == 0, first.output
    assert first.stdout == again.stdout
    *lines, protocol = first.stdout.splitlines()
    names = [line.split()[0] for line in lines]
    assert names == [
        "fid", "fid_bias", "kid", "precision", "recall", "density", "coverage", "vendi",
        "vendi_bias", "count", "real_count",
    ]  # fmt: skip
    assert re.fullmatch(r"Protocol: by inception \w{8,}; PNG of 8² pixels\.", protocol)
    assert re.search(r"^fid +[\d.]+  95 %: -?[\d.]+ to [\d.]+$", first.stdout, re.MULTILINE)
    refused = CliRunner().invoke(cli, ["metrics", str(real), str(other)])
    assert "no network is given" in refused.output
