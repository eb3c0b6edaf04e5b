"""A pipeline made small and read back, against the whole one; and who samples if none is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from corgi_core import CorgiPipeline
from corgi_core.errors import CorgiError
from corgi_core.io import released
from corgi_core.released.at_hand import pipeline_at_hand
from corgi_core.released.compact import halved, write_compact
from tests.helpers.tiny_pipeline import register, shippable_pipeline

PROMPT = "a red apple"


@pytest.fixture(scope="module")
def whole() -> CorgiPipeline:
    return shippable_pipeline()


@pytest.fixture(scope="module")
def folder(whole: CorgiPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package") / "emoji-full"
    size = write_compact(whole, folder, "# A model\n", {"data": "none"})
    assert size == sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return folder


@pytest.fixture
def installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder in the place of the package's own."""
    monkeypatch.setattr(released, "FOLDER", folder.parent)


def test_it_is_small_and_holds_no_text_encoder(folder: Path) -> None:
    tensors = {
        f"{file.parent.name}/{name}": tensor
        for file in folder.rglob("*.safetensors") for name, tensor in load_file(file).items()
    }  # fmt: skip
    assert {name: t.dtype for name, t in tensors.items() if t.is_floating_point()} == {
        name: torch.float16 for name, t in tensors.items() if t.is_floating_point()
    }
    assert not [name for name in tensors if "text.transformer" in name]
    assert [name for name in tensors if "text.proj" in name]
    assert (folder / "README.md").read_text() == "# A model\n"


def test_it_computes_what_the_whole_pipeline_does(whole: CorgiPipeline, folder: Path) -> None:
    """In float32, up to the weights' rounding: captions, images, embeddings and pictures."""
    small = CorgiPipeline.from_pretrained(folder)
    assert {p.dtype for p in small.decoder.network.parameters()} == {torch.float32}
    assert small.prior.bank.means.dtype == torch.float32
    picture = torch.rand(3, 40, 40)
    for made, expected in [
        (small.clip.encode_texts([PROMPT]), whole.clip.encode_texts([PROMPT])),
        (small.embed_image(picture), whole.embed_image(picture)),
        (small.embed_text(PROMPT, seed=1), whole.embed_text(PROMPT, seed=1)),
    ]:
        assert torch.cosine_similarity(made, expected).min() > 0.999
        assert not torch.equal(made, expected)
    z = whole.embed_text(PROMPT)
    pictures = [p.decode(z, output_type="pt", seed=1) for p in (small, whole)]
    torch.testing.assert_close(*pictures, atol=0.02, rtol=0)


def test_a_changed_file_is_refused(folder: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(folder, copied)
    weights = copied / "clip" / "0" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x07")
    with pytest.raises(CorgiError, match="is missing or not what"):
        CorgiPipeline.from_pretrained(copied)


def test_numbers_beyond_float16_are_not_lost_in_silence() -> None:
    wide = {
        "count": torch.tensor(7),
        "large.weight": torch.tensor([1e6]),
        "bank.std": torch.tensor([1e-9, 1.0]),
        "running_var": torch.tensor([0.0, 1.0]),
        "small.weight": torch.tensor([1e-9, 1.0]),
    }
    made = halved(wide)
    assert made["count"].dtype == torch.int64
    for name in ("large.weight", "bank.std"):
        assert made[name].dtype == torch.float32
        assert torch.equal(made[name], wide[name])
    assert made["running_var"].dtype == made["small.weight"].dtype == torch.float16
    with pytest.raises(CorgiError, match="weight has numbers that are not finite"):
        halved({"weight": torch.tensor([float("nan")])})


@pytest.mark.usefixtures("installed")
def test_the_released_model_samples_until_the_workspace_has_champions(
    whole: CorgiPipeline, tmp_path: Path
) -> None:
    first = pipeline_at_hand("emoji", tmp_path)
    assert (first.name, first.is_released) == ("emoji-full", True)
    assert "the released model emoji-full" in str(first)
    by_name = CorgiPipeline.from_pretrained("emoji-full", home=tmp_path)
    assert by_name.decoder.digest == first.pipeline.decoder.digest != whole.decoder.digest
    register(whole, tmp_path, "emoji")
    second = pipeline_at_hand("emoji", tmp_path)
    assert (second.name, second.is_released) == ("emoji", False)
    assert second.pipeline.decoder.digest == whole.decoder.digest
    register(whole, tmp_path, "emoji-full")
    own = CorgiPipeline.from_pretrained("emoji-full", home=tmp_path)
    assert own.decoder.digest == whole.decoder.digest


def test_without_a_released_model_it_is_said_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(released, "FOLDER", tmp_path)
    (tmp_path / "emoji").mkdir()
    with pytest.raises(CorgiError, match="nothing is registered"):
        pipeline_at_hand("emoji", tmp_path)
