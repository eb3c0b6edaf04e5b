"""DINOv2's features of a tiny model of random weights, against transformers' own preprocessing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from corgi_core.errors import CorgiError
from corgi_core.io.files import read_json, write_json
from corgi_core.metrics.dinov2 import CONFIG, WEIGHTS, Dinov2Features, dinov2_digest

TINY = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 56,
    "patch_size": 56,
}  # fmt: skip
SMALL = {  # the published dinov2-small, whose positions are those of a larger image
    "hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "image_size": 518,
    "patch_size": 14,
}  # fmt: skip


def saved(folder: Path, sizes: dict[str, int]) -> Path:
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    Dinov2Model(Dinov2Config(**sizes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("dinov2"), TINY)


@pytest.mark.parametrize(("sizes", "count"), [(TINY, 18), (SMALL, 1)])
def test_features_are_the_class_tokens_of_the_normalised_images(sizes, count, tmp_path):
    from transformers import BitImageProcessor, Dinov2Model

    folder, random = saved(tmp_path / "model", sizes), torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (count, 3, 60, 60), generator=random)
    found = Dinov2Features(str(folder))(pixels.float() / 255)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    processor = BitImageProcessor(
        size={"height": 224, "width": 224}, do_center_crop=False, image_mean=mean, image_std=std
    )
    images = [each.permute(1, 2, 0).numpy() for each in pixels.to(torch.uint8)]
    with torch.no_grad():
        tokens = Dinov2Model.from_pretrained(folder)(
            **processor(images, return_tensors="pt")
        ).last_hidden_state
    assert found.shape == (count, sizes["hidden_size"])
    # transformers' resizing rounds to 8 bits, ours does not
    np.testing.assert_allclose(found, tokens[:, 0].numpy(), atol=0.02)


def copied(folder: Path, to: Path) -> Path:
    to.mkdir()
    for name in (CONFIG, WEIGHTS):
        (to / name).write_bytes((folder / name).read_bytes())
    return to


def test_what_is_no_whole_dinov2_is_refused(folder, tmp_path):
    with pytest.raises(CorgiError, match=r"no config\.json and model\.safetensors"):
        Dinov2Features(str(tmp_path / "none"))
    other = copied(folder, tmp_path / "other")
    write_json(other / CONFIG, read_json(other / CONFIG) | {"model_type": "vit"})
    with pytest.raises(CorgiError, match="type vit, and no DINOv2"):
        Dinov2Features(str(other))
    torn = copied(folder, tmp_path / "torn")
    (torn / WEIGHTS).write_bytes((torn / WEIGHTS).read_bytes()[:-10])
    with pytest.raises(CorgiError, match="cannot be read"):
        Dinov2Features(str(torn))
    partial = copied(folder, tmp_path / "partial")
    tensors = load_file(partial / WEIGHTS)
    del tensors["layernorm.weight"]
    save_file(tensors, partial / WEIGHTS, {"format": "pt"})
    with pytest.raises(CorgiError, match=r"lacks 1 of DINOv2's tensors, such as layernorm\.weight"):
        Dinov2Features(str(partial))


def test_the_digest_names_the_weights(folder, tmp_path):
    same, other = copied(folder, tmp_path / "same"), copied(folder, tmp_path / "other")
    tensors = load_file(other / WEIGHTS)
    tensors["layernorm.weight"] += 1
    save_file(tensors, other / WEIGHTS, {"format": "pt"})
    assert dinov2_digest(str(same)) == dinov2_digest(str(folder)) != dinov2_digest(str(other))
