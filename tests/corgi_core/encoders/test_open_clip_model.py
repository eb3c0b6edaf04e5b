"""Named pretrained encoders are built as their weights need it, against transformers' CLIP.

The independent implementation is transformers' CLIPModel with QuickGELU; its weights are converted
here. The pretrained tags are small models of known weights, entered in open_clip's own table, so
that the whole way of "ViT-B-16/openai" is taken, but for the download.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.tokenizer import HFTokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
)

from corgi_core.encoders.clip import ClipEnsemble
from corgi_core.encoders.open_clip_model import OpenClipModel, pretrained_architecture
from corgi_core.encoders.tokens import transformers_source
from corgi_core.errors import CorgiError

WIDTH, SIZE, LAYERS, LENGTH = 64, 32, 2, 16
CAPTIONS = ["a red apple", "a very small dog on a very large sofa", "x"]
TEXT = {"context_length": LENGTH, "width": WIDTH, "heads": 2, "layers": LAYERS}
VISION = {
    "vit": {"image_size": SIZE, "patch_size": 16, "width": WIDTH, "layers": LAYERS},
    "resnet": {"image_size": SIZE, "patch_size": None, "width": 8, "layers": [1, 1, 1, 1]},
}
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of random weights for each architecture, registered with open_clip."""
    folder = tmp_path_factory.mktemp("pretrained")
    files = {}
    for family, vision in VISION.items():
        config = {"embed_dim": 48, "vision_cfg": vision, "text_cfg": TEXT}
        (folder / f"corgi-tiny-{family}.json").write_text(json.dumps(config))
        open_clip.add_model_config(folder / f"corgi-tiny-{family}.json")
        torch.manual_seed(3)
        model = open_clip.CLIP(**config)
        for name, parameter in model.named_parameters():
            if "mlp" in name or "c_fc" in name:  # so that the activation is felt
                nn.init.normal_(parameter, std=0.3)
        files[family] = folder / f"{family}.pt"
        torch.save(model.state_dict(), files[family])
    return files


@pytest.fixture
def named(weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Enter a tag in open_clip's table of pretrained weights; returns the encoder's name."""

    def enter(family: str, **about: Any) -> str:
        entry = {"file": str(weights[family]), "mean": MEAN, "std": STD, **about}
        monkeypatch.setitem(
            open_clip.pretrained._PRETRAINED, f"corgi-tiny-{family}", {"openai": entry}
        )
        return f"corgi-tiny-{family}/openai"

    return enter


def as_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's names and shapes of a CLIP's weights → those of transformers' CLIPModel."""
    converted = {
        "logit_scale": state["logit_scale"],
        "text_projection.weight": state["text_projection"].T,
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
    }
    blocks = {"transformer.": "text_model."}
    norms = {"ln_final": "text_model.final_layer_norm"}
    if "visual.class_embedding" in state:
        converted |= {
            "visual_projection.weight": state["visual.proj"].T,
            "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
            "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
            "vision_model.embeddings.position_embedding.weight": state[
                "visual.positional_embedding"
            ],
        }
        blocks["visual.transformer."] = "vision_model."
        norms |= {
            "visual.ln_pre": "vision_model.pre_layrnorm",
            "visual.ln_post": "vision_model.post_layernorm",
        }
    parts = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj",
             "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}  # fmt: skip
    for ours, theirs in norms.items():
        for kind in ("weight", "bias"):
            converted[f"{theirs}.{kind}"] = state[f"{ours}.{kind}"]
    for ours, theirs in blocks.items():
        for layer in range(LAYERS):
            source = f"{ours}resblocks.{layer}"
            target = f"{theirs}encoder.layers.{layer}"
            for kind in ("weight", "bias"):
                for part, name in parts.items():
                    converted[f"{target}.{name}.{kind}"] = state[f"{source}.{part}.{kind}"]
                qkv = state[f"{source}.attn.in_proj_{kind}"].chunk(3)
                for name, part in zip(("q_proj", "k_proj", "v_proj"), qkv, strict=True):
                    converted[f"{target}.self_attn.{name}.{kind}"] = part
    return converted


def reference_texts(state: dict[str, Tensor], activation: str, ids: Tensor) -> Tensor:
    """transformers' text embeddings, unit vectors [n, 48]."""
    config = CLIPTextConfig(
        hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_attention_heads=2, projection_dim=48,
        num_hidden_layers=LAYERS, max_position_embeddings=LENGTH, vocab_size=49408,
        hidden_act=activation, eos_token_id=49407, bos_token_id=49406, pad_token_id=0,
    )  # fmt: skip
    model = CLIPTextModelWithProjection(config).eval()
    expected = model.state_dict().keys()
    weights = {k: v for k, v in as_transformers(state).items() if k in expected}
    model.load_state_dict(weights)
    with torch.no_grad():
        return F.normalize(model(input_ids=ids).text_embeds, dim=-1)


def reference_images(state: dict[str, Tensor], activation: str, pixels: Tensor) -> Tensor:
    """transformers' image embeddings of a ViT, unit vectors [n, 48]."""
    vision = CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_attention_heads=1, image_size=SIZE,
        num_hidden_layers=LAYERS, patch_size=16, hidden_act=activation,
    )  # fmt: skip
    text = CLIPTextConfig(
        hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_attention_heads=2, vocab_size=49408,
        num_hidden_layers=LAYERS, max_position_embeddings=LENGTH, hidden_act=activation,
    )  # fmt: skip
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=48
    )
    model = CLIPModel(config).eval()
    model.load_state_dict(as_transformers(state))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    with torch.no_grad():
        vector = model.vision_model(pixel_values=(pixels - mean) / std).pooler_output
        return F.normalize(model.visual_projection(vector), dim=-1)


def differ(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() > 1e-3)  # a hundred times what floats differ by


@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_a_tag_trained_with_quick_gelu_gives_what_quick_gelu_gives(
    family: str, named: Callable[..., str], weights: dict[str, Path], tmp_path: Path
) -> None:
    state = torch.load(weights[family], weights_only=True)
    encoder = OpenClipModel.named(named(family, quick_gelu=True))
    ClipEnsemble([encoder]).save(tmp_path / "saved")
    again = ClipEnsemble.load(tmp_path / "saved")
    assert again.digest == ClipEnsemble([encoder]).digest

    ids = open_clip.tokenize(CAPTIONS, LENGTH)
    quick, plain = (reference_texts(state, a, ids) for a in ("quick_gelu", "gelu"))
    assert differ(quick, plain)
    for loaded in (encoder, again.encoders[0]):
        torch.testing.assert_close(loaded.encode_texts(CAPTIONS), quick, atol=1e-5, rtol=1e-4)
    if family == "vit":
        pixels = torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
        quick, plain = (reference_images(state, a, pixels) for a in ("quick_gelu", "gelu"))
        assert differ(quick, plain)
        for loaded in (encoder, again.encoders[0]):
            torch.testing.assert_close(loaded.encode_images(pixels), quick, atol=1e-5, rtol=1e-4)


def test_a_tag_without_quick_gelu_is_built_with_gelu(
    named: Callable[..., str], weights: dict[str, Path]
) -> None:
    state = torch.load(weights["vit"], weights_only=True)
    encoder = OpenClipModel.named(named("vit"))
    expected = reference_texts(state, "gelu", open_clip.tokenize(CAPTIONS, LENGTH))
    torch.testing.assert_close(encoder.encode_texts(CAPTIONS), expected, atol=1e-5, rtol=1e-4)


def test_preprocessing_is_the_tags(named: Callable[..., str]) -> None:
    encoder = OpenClipModel.named(named("vit", interpolation="bilinear"))
    assert encoder.preprocessing["mean"] == MEAN
    pixels = torch.rand(1, 3, 90, 90)
    resized = F.interpolate(pixels, (SIZE, SIZE), mode="bilinear", antialias=True)
    torch.testing.assert_close(encoder.encode_images(pixels), encoder.encode_images(resized))
    bicubic = OpenClipModel.named(named("vit", interpolation="bicubic"))
    assert not torch.allclose(encoder.encode_images(pixels), bicubic.encode_images(pixels))


def test_a_file_of_weights_takes_the_architecture_as_it_is(weights: dict[str, Path]) -> None:
    encoder = OpenClipModel.named(f"corgi-tiny-vit/{weights['vit']}")
    assert "quick_gelu" not in encoder.architecture


def test_every_tag_of_open_clip_has_the_activation_of_its_weights() -> None:
    pairs = open_clip.list_pretrained()
    wanted = {
        pair: open_clip.get_pretrained_cfg(*pair).get("quick_gelu", False)
        # this tag is silent where its architecture asks for QuickGELU
        or pair == ("roberta-ViT-B-32", "laion2b_s12b_b32k")
        for pair in pairs
    }
    found = {pair: pretrained_architecture(*pair).get("quick_gelu", False) for pair in pairs}
    assert found == wanted
    assert 30 < sum(found.values()) < len(pairs)


def test_a_tokenizer_of_transformers_travels_with_its_encoder(tmp_path: Path) -> None:
    """As SigLIP's: open_clip's own text transformer under a tokenizer of transformers."""
    tokenizer = HFTokenizer(transformers_source("minilm"), context_length=LENGTH)
    text = TEXT | {"vocab_size": 30522, "hf_tokenizer_name": "an/id-of-the-hub"}
    architecture = {"embed_dim": 48, "vision_cfg": VISION["vit"], "text_cfg": text}
    model = open_clip.CLIP(**architecture)
    open_clip.set_model_preprocess_cfg(model, {"mean": MEAN, "std": STD})
    encoder = OpenClipModel("tiny", model, architecture, tokenizer)
    (tmp_path / "tiny").mkdir()
    encoder.save(tmp_path / "tiny")
    again = OpenClipModel.load(tmp_path / "tiny", "tiny")
    assert torch.equal(again.encode_texts(CAPTIONS), encoder.encode_texts(CAPTIONS))


@pytest.mark.parametrize("name", ["ViT-B-16/openai", "ViT-B-32/openai", "RN101/openai"])
def test_the_papers_encoders_have_quick_gelu_alone(name: str) -> None:
    with torch.device("meta"):
        model = open_clip.CLIP(**pretrained_architecture(*name.split("/")))
    kinds = [type(module).__name__ for module in model.modules()]
    assert kinds.count("QuickGELU") == (12 if name.startswith("RN") else 24)
    assert "GELU" not in kinds


def test_a_tag_needs_an_architecture() -> None:
    with pytest.raises(CorgiError, match="there is no CLIP encoder 'ViT-B-16'"):
        pretrained_architecture("ViT-B-16", "")
