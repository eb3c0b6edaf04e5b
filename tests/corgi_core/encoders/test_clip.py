"""Ensembles of open_clip models stored in local folders, against open_clip used plainly."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch
from torch.nn import functional as F
from upath import UPath

from corgi_core.encoders.clip import ClipEnsemble
from corgi_core.encoders.clip_text import ClipTextTower
from corgi_core.encoders.train_clip import MEAN, STD
from corgi_core.errors import CorgiError
from corgi_core.io.files import read_json, write_json

CAPTIONS = [
    "a red apple, noto style",
    "woman astronaut: medium skin tone, twemoji style",
    "tea &amp;  cake\n", "x",
    "a caption that is a good deal longer than what the encoder reads of it, so it is cut",
]  # fmt: skip


@pytest.fixture(scope="module")
def saved(untrained: ClipEnsemble, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip") / "ensemble"
    untrained.save(folder)
    return folder


@pytest.fixture(scope="module")
def pair(saved: Path, vit_folder: Path) -> ClipEnsemble:
    """Two encoders of different families, widths and image sizes."""
    return ClipEnsemble.load([str(saved / "0"), str(vit_folder)])


def test_a_saved_ensemble_is_read_back_to_the_bit(untrained: ClipEnsemble, saved: Path) -> None:
    read = ClipEnsemble.load(saved)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    assert torch.equal(read.encode_images(images), untrained.encode_images(images))
    assert torch.equal(read.encode_texts(CAPTIONS), untrained.encode_texts(CAPTIONS))
    assert (read.digest, read.names, read.encoder_dims) == (
        untrained.digest, untrained.names, untrained.encoder_dims,
    )  # fmt: skip


def test_the_folder_names_no_path_of_this_machine(saved: Path) -> None:
    for file in saved.rglob("*.json"):
        text = file.read_text(encoding="utf-8")
        assert "site-packages" not in text
        assert str(saved) not in text


def test_blocks_are_what_open_clip_computes_scaled(pair: ClipEnsemble, vit_folder: Path) -> None:
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{vit_folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{vit_folder}")
    with torch.no_grad():
        expected = model.encode_text(tokenizer(CAPTIONS), normalize=True) * 48**0.5
    assert pair.encoder_dims == (32, 48)
    assert (pair.width, pair.image_size) == (80, 64)
    torch.testing.assert_close(pair.encode_texts(CAPTIONS)[:, 32:], expected)

    pixels = torch.rand(3, 3, 32, 32)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in
                       (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))  # fmt: skip
    with torch.no_grad():
        features = model.encode_image((pixels - mean) / std, normalize=True)
    torch.testing.assert_close(pair.encode_images(pixels)[:, 32:], features * 48**0.5)


def test_every_block_has_unit_mean_square(pair: ClipEnsemble) -> None:
    embeddings = torch.cat([pair.encode_images(torch.rand(2, 3, 50, 50)), pair.encode_texts(["x"])])
    for block in embeddings.split(pair.encoder_dims, dim=1):
        torch.testing.assert_close(block.pow(2).mean(dim=1), torch.ones(3))


def test_bytes_and_floats_are_the_same_picture(pair: ClipEnsemble) -> None:
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    torch.testing.assert_close(pair.encode_images(pixels), pair.encode_images(pixels / 255))


def test_resizing_is_near_pillows(pair: ClipEnsemble, vit_folder: Path) -> None:
    from PIL import Image

    _, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{vit_folder}")
    smooth = F.interpolate(torch.rand(1, 3, 6, 6), size=(90, 90), mode="bicubic").clamp(0, 1)
    pixels = (smooth * 255).round().to(torch.uint8)
    picture = Image.fromarray(pixels[0].permute(1, 2, 0).numpy())
    with torch.no_grad():
        expected = pair.encoders[1].model.encode_image(preprocess(picture)[None], normalize=True)
    cosine = F.cosine_similarity(pair.encode_images(pixels)[:, 32:], expected)
    assert cosine.item() > 0.9999


def test_the_order_of_encoders_is_part_of_the_digest(saved: Path, vit_folder: Path) -> None:
    names = [str(saved / "0"), str(vit_folder)]
    assert ClipEnsemble.load(names).digest != ClipEnsemble.load(names[::-1]).digest


def test_an_ensemble_is_stored_in_an_object_store_too(pair: ClipEnsemble) -> None:
    folder = UPath("memory://encoders/ensemble")
    pair.save(folder)
    assert ClipEnsemble.load(folder).digest == pair.digest


def test_the_text_tower_alone_equals_open_clip(
    pair: ClipEnsemble, saved: Path, tmp_path: Path
) -> None:
    model = pair.encoders[0].model
    tokenizer = open_clip.get_tokenizer(f"local-dir:{saved / '0'}")
    with torch.no_grad():
        plain = model.encode_text(tokenizer(CAPTIONS), normalize=True) * 32**0.5
    light = ClipTextTower.load(saved)
    torch.testing.assert_close(light.encode_texts(CAPTIONS), plain, atol=1e-5, rtol=1e-4)

    pair.save(tmp_path / "pair")
    both = ClipTextTower.load(tmp_path / "pair")
    assert (both.digest, both.encoder_dims) == (pair.digest, pair.encoder_dims)
    torch.testing.assert_close(
        both.encode_texts(CAPTIONS), pair.encode_texts(CAPTIONS), atol=1e-5, rtol=1e-4
    )


def test_white_is_zero_to_the_trained_encoder(untrained: ClipEnsemble) -> None:
    assert untrained.encoders[0].preprocessing["mean"] == MEAN
    assert untrained.encoders[0].preprocessing["std"] == STD


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("No-Such-Model/openai", "there is no CLIP encoder"),
        ("ViT-B-32", "there is no CLIP encoder"),  # which weights?
        ("ViT-B-32/no-such-weights", "cannot be loaded"),
    ],
)
def test_unknown_encoders_are_named(name: str, problem: str) -> None:
    with pytest.raises(CorgiError, match=problem) as error:
        ClipEnsemble.load([name])
    assert name in str(error.value)


def test_a_damaged_or_missing_folder_is_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(CorgiError, match=r"open_clip_config\.json is missing"):
        ClipEnsemble.load([str(tmp_path / "absent")])
    with pytest.raises(CorgiError, match=r"ensemble\.json is missing"):
        ClipEnsemble.load(tmp_path)

    ClipEnsemble.load(saved).save(tmp_path / "copy")
    weights = tmp_path / "copy" / "0" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 0xFF
    weights.write_bytes(content)
    with pytest.raises(CorgiError, match="not those"):
        ClipEnsemble.load(tmp_path / "copy")
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(CorgiError, match="cannot be loaded"):
        ClipEnsemble.load(tmp_path / "copy")
    weights.unlink()
    with pytest.raises(CorgiError, match=r"model\.safetensors is missing"):
        ClipEnsemble.load(tmp_path / "copy")


def test_an_ensemble_of_another_version_is_refused(untrained: ClipEnsemble, tmp_path: Path) -> None:
    untrained.save(tmp_path / "old")
    about = read_json(tmp_path / "old" / "ensemble.json")
    del about["format"]
    about["blocks"] = about.pop("encoder_dims")
    write_json(tmp_path / "old" / "ensemble.json", about)
    for read in (ClipEnsemble.load, ClipTextTower.load):
        with pytest.raises(CorgiError, match="another version of Corgi"):
            read(tmp_path / "old")


def test_images_must_be_square_rgb(untrained: ClipEnsemble) -> None:
    with pytest.raises(CorgiError, match="not square RGB"):
        untrained.encode_images(torch.rand(2, 3, 64, 32))


def test_a_saved_ensemble_can_be_named_among_others(saved: Path, vit_folder: Path) -> None:
    whole = ClipEnsemble.load([str(saved)])
    assert whole.digest == ClipEnsemble.load(saved).digest
    both = ClipEnsemble.load([str(saved), str(vit_folder)])
    assert both.names == [*whole.names, vit_folder.name]
