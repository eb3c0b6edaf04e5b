"""Every part of a pipeline, real, tiny and untrained, for two CLIP encoders of unequal widths."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip.tokenizer import HFTokenizer
from PIL import Image
from torch import nn

from corgi_core.config import preset_named
from corgi_core.data.dataset import Dataset, write_dataset
from corgi_core.data.shards import Sample
from corgi_core.decoders.decoder import Decoder
from corgi_core.decoders.pca.decoder import PCADecoder
from corgi_core.decoders.pca.network import PCANetwork, PCAShape
from corgi_core.encoders.clip import ClipEnsemble
from corgi_core.encoders.embed import encoder_spec
from corgi_core.encoders.open_clip_model import OpenClipModel
from corgi_core.encoders.tokens import TokenEncoder, transformers_source
from corgi_core.encoders.train_clip import architecture, untrained_clip
from corgi_core.gaussians.bank import GaussianBank
from corgi_core.io.model_index import MODELS_FILE, IndexedModel, ModelIndex, TextEncoderName
from corgi_core.pipeline import CorgiPipeline
from corgi_core.prior.model import PriorModel
from corgi_core.prior.network import PriorNetwork, PriorShape
from tests.helpers.tiny_vit import tiny_vit

BLOCKS, SIDE = (8, 12), 16
PRESET = preset_named("emoji-small")
TOKENS = PRESET.encoders.text_tokens


def tiny_pipeline() -> CorgiPipeline:
    torch.manual_seed(0)
    clip = ClipEnsemble(
        [tiny_vit(f"vit-{width}", width, layers=1, context_length=77) for width in BLOCKS]
    )
    tokens = TokenEncoder.load("minilm", TOKENS)
    encoders, d = encoder_spec(clip), sum(BLOCKS)
    shape = PriorShape(d, tokens.width, TOKENS, gaussians=1, width=32, layers=1, heads=2)
    prior = randomised(PriorNetwork(shape))
    return CorgiPipeline(
        clip=clip,
        tokens=tokens,
        prior=PriorModel(prior, GaussianBank.standard(BLOCKS), PRESET.prior, encoders, card={}),
        decoder=pixels_decoder(encoders),
    )


def shippable_pipeline(width: int = 32) -> CorgiPipeline:
    """A pipeline of the kinds that the released model has: its CLIP's text encoder is MiniLM."""
    torch.manual_seed(0)
    settings = replace(PRESET.encoders, width=width, image_size=32, tower_channels=8)
    model = untrained_clip(settings, pretrained_text=True)
    tokenizer = HFTokenizer(transformers_source("minilm"), context_length=TOKENS)
    clip = ClipEnsemble([OpenClipModel("tiny", model, architecture(settings), tokenizer)])
    tokens = TokenEncoder.load("minilm", TOKENS)
    shape = PriorShape(width, tokens.width, TOKENS, gaussians=1, width=32, layers=1, heads=2)
    bank, encoders = GaussianBank.standard((width,)), encoder_spec(clip)
    network = randomised(PriorNetwork(shape))
    card = {"labels": {"variant": "baseline"}}
    prior = PriorModel(network, bank, PRESET.prior, encoders, card)
    return CorgiPipeline(clip, tokens, prior, pixels_decoder(encoders))


def pixels_decoder(encoders: Mapping[str, Any]) -> PCADecoder:
    """A decoder of embeddings of those encoders (`encoder_spec`), untrained."""
    settings = replace(
        PRESET.decoder, image_size=SIDE, components=40, width=32, vector_width=8, guidance=1.0
    )
    known = {field.name for field in fields(settings)}
    sizes = {f.name: getattr(settings, f.name) for f in fields(PCAShape) if f.name in known}
    network = randomised(PCANetwork(PCAShape(embedding_width=encoders["width"], **sizes)))
    return PCADecoder(network, settings, encoders, card={})


def with_gaussians(pipeline: CorgiPipeline, k: int) -> CorgiPipeline:
    """The same pipeline, with an untrained prior of k Gaussians."""
    torch.manual_seed(3)
    network = randomised(PriorNetwork(replace(pipeline.prior.network.shape, gaussians=k)))
    means, std = torch.randn(k, sum(BLOCKS)), 0.5 + torch.rand(k, sum(BLOCKS))
    bank = GaussianBank(means, std, torch.arange(1, k + 1), BLOCKS, kappa=1.0)
    old = pipeline.prior
    return replace(pipeline, prior=PriorModel(network, bank, old.settings, old.encoders, {}))


def register(
    pipeline: CorgiPipeline, home: Path, workspace: str, **more: tuple[str, Decoder | PriorModel]
) -> None:
    """Register a pipeline's parts as a workspace's champions, and more: (part, model) by alias."""
    models: dict[str, dict[str, IndexedModel]] = {"clip": {}, "prior": {}, "decoder": {}}
    for alias, (part, model) in [
        ("champion", ("clip", pipeline.clip)), ("champion", ("prior", pipeline.prior)),
        ("champion", ("decoder", pipeline.decoder)), *more.items(),
    ]:  # fmt: skip
        folder = home / "mlflow" / "artifacts" / f"{part}-{alias}"
        model.save(folder)
        models[part][alias] = IndexedModel(folder, model.digest)
    text_encoder = TextEncoderName(pipeline.tokens.name, pipeline.tokens.max_tokens)
    ModelIndex(workspace, text_encoder, models).save(home / workspace / MODELS_FILE)


def randomised(network: nn.Module) -> nn.Module:
    """What starts at zero would prove nothing."""
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network.eval()


def png(number: int) -> bytes:
    """A picture of 20 × 24 pixels, unlike every other number's."""
    coarse = np.random.default_rng(number).integers(0, 255, (3, 3, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(coarse).resize((20, 24), Image.Resampling.NEAREST).save(content, format="PNG")
    return content.getvalue()


def write_images(
    folder: Path,
    count: int = 10,
    shard_size: int = 4,
    captions: int = 1,
    *,
    validated: bool = False,
) -> Dataset:
    """`count` pictures, every fifth of them held out, every third without a caption.

    Where it is `validated`, every tenth is of the validation split. The others have `captions`
    captions each; the first is the same whatever their number.
    """
    more = [f"another caption, the {n}th" for n in range(1, captions)]
    samples = [
        Sample(
            f"key{n:02}", png(n), [f"picture number {n}", *more] if n % 3 else None,
            "test" if n % 5 == 4 else "validation" if validated and n % 10 == 3 else "train",
            "made", f"key{n}",
        )
        for n in range(count)
    ]  # fmt: skip
    return write_dataset(folder, samples, shard_size)
