"""Image towers without the work that nothing reads give what open_clip's own code gives."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import Any
from unittest.mock import patch

import open_clip
import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from corgi_core.encoders import linear, open_clip_model
from corgi_core.encoders.clip import ClipEnsemble
from corgi_core.encoders.open_clip_model import OpenClipModel
from corgi_core.encoders.vision_transformer import image_features

TEXT = {"context_length": 8, "width": 32, "heads": 2, "layers": 1}
VIT = {"image_size": 64, "patch_size": 16, "width": 128, "head_width": 32, "layers": 3}
TOWERS: dict[str, dict[str, Any]] = {
    "plain": VIT,
    "scaled layers": VIT | {"ls_init_value": 0.3},
    "no first normalisation": VIT | {"no_ln_pre": True},
    "mean of tokens": VIT | {"pool_type": "avg", "final_ln_after_pool": True},
    "attentional pooling": VIT | {"attentional_pool": True, "attn_pooler_heads": 4},
    "normalised queries": VIT | {"block_type": "custom", "qk_norm": True},
    "residual network": {"image_size": 64, "patch_size": None, "width": 8, "layers": [1, 1, 1, 1]},
}


def model_with(vision: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    model = open_clip.CLIP(embed_dim=48, vision_cfg=vision, text_cfg=TEXT)
    return model.eval().requires_grad_(False)


def encoder_of(vision: dict[str, Any]) -> OpenClipModel:
    model = model_with(vision)
    preprocessing = open_clip.transform.PreprocessCfg(size=64)
    open_clip.model.set_model_preprocess_cfg(model, vars(preprocessing))
    config = {"embed_dim": 48, "vision_cfg": vision, "text_cfg": TEXT}
    return OpenClipModel("tiny", model, config, tokenizer=None)


def pixels(n: int) -> Tensor:
    return torch.randn(n, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", TOWERS)
def test_features_are_those_of_open_clip(name: str) -> None:
    model, images = model_with(TOWERS[name]), pixels(3)
    expected = model.encode_image(images)
    assert expected.std() > 0.01
    torch.testing.assert_close(image_features(model.visual, images), expected)


@pytest.mark.parametrize("by_onednn", [False, True])
@pytest.mark.parametrize("name", TOWERS)
def test_features_are_equal_by_either_library_of_products(
    name: str, by_onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With any processor's choice."""
    monkeypatch.setattr(linear, "_onednn_is_faster", lambda: by_onednn)
    model, images = model_with(TOWERS[name]), pixels(3)
    with torch.no_grad():
        expected, found = model.encode_image(images), image_features(model.visual, images)
    torch.testing.assert_close(found, expected)
    assert torch.cosine_similarity(found, expected).min() > 0.999999


def test_threads_that_begin_together_share_one_converted_tower() -> None:
    encoder, images = encoder_of(VIT), torch.rand(1, 3, 64, 64)
    with (
        ThreadPoolExecutor(8) as pool,
        patch.object(open_clip_model, "deepcopy", side_effect=deepcopy) as copied,
    ):
        encoded = [pool.submit(encoder.encode_images, images, torch.bfloat16) for _ in range(8)]
        assert len({tuple(each.result()[0].tolist()) for each in encoded}) == 1
    assert copied.call_count == 1


def test_gradients_are_those_of_open_clip() -> None:
    model = model_with(VIT)
    ours, theirs = (pixels(2).requires_grad_() for _ in range(2))
    image_features(model.visual, ours)[:, 0].sum().backward()
    model.encode_image(theirs)[:, 0].sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_the_last_block_computes_one_token() -> None:
    """Of its 12 w² multiply-adds a token, 2 w² are left, for keys and values."""
    model, images = model_with(VIT), pixels(1).requires_grad_()  # else torch counts no attention
    counts = []
    for features in (model.encode_image, lambda images: image_features(model.visual, images)):
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            features(images)
        counts.append(counter.get_total_flops())
    tokens, width = 17, VIT["width"]
    saved = 2 * 10 * width**2 * (tokens - 1)
    assert counts[0] - counts[1] == pytest.approx(saved, rel=0.1)  # and in attention


@pytest.mark.parametrize("name", ["plain", "mean of tokens", "residual network"])
def test_a_cpu_encodes_in_bfloat16_where_it_is_asked_to(name: str) -> None:
    clip = ClipEnsemble([encoder_of(TOWERS[name])])
    images = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    exact, digest = clip.encode_images(images), clip.digest
    clip.precision = "bf16"
    rounded = clip.encode_images(images)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    assert torch.cosine_similarity(rounded, exact).min() > 0.999
    clip.precision = "auto"
    assert torch.equal(clip.encode_images(images), exact)
    del clip.digest
    assert clip.digest == digest
    assert {
        tensor.dtype for tensor in clip.state_dict().values() if tensor.is_floating_point()
    } == {torch.float32}
