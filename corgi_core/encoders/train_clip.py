"""Trains a small open_clip model on the training split, where no pretrained one is at hand.

The text tower is open_clip's HFTextEncoder: a frozen transformers encoder, mean pooled, under a
learned projection. Its pooled vectors are computed once. The image tower is learned from scratch.
The loss is CLIP's, over the global batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import torch
from open_clip.hf_configs import arch_dict
from open_clip.model import set_model_preprocess_cfg
from open_clip.tokenizer import HFTokenizer
from open_clip.transform import PreprocessCfg
from torch import Tensor, nn
from torch.nn import functional as F

from corgi_core.config import EncoderSettings
from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Dataset
from corgi_core.data.keys import SplitKeys
from corgi_core.data.splits import TRAIN, VALIDATION
from corgi_core.encoders.clip import ClipEnsemble
from corgi_core.encoders.contrastive import (
    HELD_OUT_IMAGES,
    JITTER_NUMBERS,
    LARGEST_SCALE,
    global_clip_loss,
    held_out_retrieval,
    jittered,
    pooled_captions,
)
from corgi_core.encoders.open_clip_model import OpenClipModel
from corgi_core.encoders.tokens import (
    TokenEncoder,
    portable_name,
    quiet_transformers,
    transformers_source,
)
from corgi_core.errors import CorgiError
from corgi_core.streaming.resizing import check_stored_size
from corgi_core.streaming.squares import Squares
from corgi_core.training.randomness import StepRandom
from corgi_core.training.rows import ChosenRows
from corgi_core.training.task import ALONE, Task
from corgi_core.training.waiting import Meeting

# White is 0, so the convolutions' zero padding continues the background.
MEAN, STD = (1.0, 1.0, 1.0), (0.5, 0.5, 0.5)
_BATCH = 256


class DualEncoder(nn.Module):
    """What is trained of an open_clip model: image tower, text projection and logit scale."""

    def __init__(self, clip: open_clip.CustomTextCLIP) -> None:
        super().__init__()
        self.visual = clip.visual
        self.projection = clip.text.proj
        self.logit_scale = clip.logit_scale

    def forward(self, pixels: Tensor, pooled: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels [n, 3, s, s] in [0, 1], pooled text [n, w] → unit vectors [n, d] twice, scale."""
        scale = self.logit_scale.clamp(max=LARGEST_SCALE).exp()
        return self.encode_images(pixels), self.encode_texts(pooled), scale

    def encode_images(self, pixels: Tensor) -> Tensor:
        """[n, 3, s, s] in [0, 1] → unit vectors [n, d], float32."""
        pixels = (pixels - MEAN[0]) / STD[0]
        features = self.visual(pixels.contiguous(memory_format=torch.channels_last))
        return F.normalize(features.float(), dim=-1)

    def encode_texts(self, pooled: Tensor) -> Tensor:
        """Mean-pooled text [n, w] → unit vectors [n, d], float32."""
        return F.normalize(self.projection(pooled).float(), dim=-1)


class Pairs(NamedTuple):
    """Images and captions: pixels uint8 [n, 3, s, s]; pooled text float32 [n, w]."""

    pixels: Tensor
    pooled: Tensor


@dataclass
class ClipTask(Task[DualEncoder]):
    """Training of a small open_clip model (a `Task` of the training loop).

    A row is a caption of a training image. `pixels` are the images at `settings.image_size`, or
    larger; then they are scaled down.
    """

    compares_samples = True

    settings: EncoderSettings
    images: Dataset
    pixels: ArrayStore

    def __post_init__(self) -> None:
        check_stored_size(self.pixels.spec["size"], self.settings.image_size, "CLIP encoder")

    def prepare_data(self, folder: Path) -> None:
        """Pool all captions once, in <folder>/pooled, and count them: others read that."""
        text = TokenEncoder.load(self.settings.text, self.settings.text_tokens)
        self._texts = pooled_captions(text, self.images, folder / "pooled")
        self._training.prepare(folder, "training-captions")

    @cached_property
    def _texts(self) -> ArrayStore:
        raise RuntimeError("prepare_data comes first")

    @cached_property
    def _training(self) -> ChosenRows:
        return ChosenRows(self._texts, SplitKeys(self.images, TRAIN))

    @property
    def rows(self) -> int:
        """The number of captions of training images."""
        if not (count := len(self._training)):
            raise CorgiError(
                "no training image has a caption, so no CLIP model can be trained",
                "ingest captions, or name pretrained encoders in encoders.clip",
            )
        return count

    @property
    def shard_rows(self) -> list[int]:
        """The number of captions of training images in each shard."""
        return self._training.shard_rows

    def build(self) -> DualEncoder:
        """The model of the settings' architecture, freshly initialised."""
        clip = untrained_clip(self.settings, pretrained_text=False)
        model = DualEncoder(clip)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model

    def batch(self, rows: Tensor, random: StepRandom) -> Pairs:
        """The captions of rows [b] with their images."""
        return self._pairs(self._training, rows)

    def loss(self, model: nn.Module, batch: Pairs, random: StepRandom) -> dict[str, Tensor]:
        """CLIP's symmetric cross-entropy, with the global batch's other captions as negatives."""
        pixels = jittered(batch.pixels / 255, random.uniform(JITTER_NUMBERS))
        image, text, scale = model(pixels, batch.pooled)
        return {"loss": global_clip_loss(image, text, scale), "logit_scale": scale}

    @torch.no_grad()
    def evaluate(self, model: DualEncoder, workers: Meeting = ALONE) -> dict[str, float]:
        """Retrieval where caption i belongs to image i, of at most 4,096 validation images."""
        captions = ChosenRows(self._texts, SplitKeys(self.images, VALIDATION), first_only=True)
        rows, device = captions.spaced(HELD_OUT_IMAGES), model.logit_scale.device
        image, text = [], []
        for chunk in torch.split(rows, _BATCH):
            pixels, pooled = self._pairs(captions, chunk)
            image.append(model.encode_images(pixels.to(device) / 255))
            text.append(model.encode_texts(pooled.to(device)))
        if not image:
            return {}
        return held_out_retrieval(torch.cat(text), torch.cat(image), [image[0].shape[1]])

    def _pairs(self, captions: ChosenRows, rows: Tensor) -> Pairs:
        (pooled,) = captions.gather(rows, (self._texts, "pooled"))
        size = self.settings.image_size
        return Pairs(captions.gather_squares(rows, self.squares, size), pooled)

    @cached_property
    def squares(self) -> Squares:
        """The images that `batch` reads."""
        return Squares(self.pixels, self.images)

    def ensemble(self, model: DualEncoder, card: Mapping[str, Any]) -> ClipEnsemble:
        """The trained parts put back into an open_clip model, as an ensemble of one."""
        clip = untrained_clip(self.settings, pretrained_text=True)
        clip.visual.load_state_dict(model.visual.state_dict())
        clip.text.proj.load_state_dict(model.projection.state_dict())
        clip.logit_scale.data.copy_(model.logit_scale)
        tokenizer = HFTokenizer(
            transformers_source(self.settings.text), context_length=self.settings.text_tokens
        )
        name = f"resnet{self.settings.tower_channels}-{self.settings.image_size}px"
        encoder = OpenClipModel(name, clip, architecture(self.settings), tokenizer)
        return ClipEnsemble([encoder], card)


def architecture(settings: EncoderSettings) -> dict[str, Any]:
    """open_clip's `model_cfg`, which names the text tower as it is called on every machine."""
    text = portable_name(settings.text)
    return {
        "embed_dim": settings.width,
        "vision_cfg": {  # a list of layers means a ModifiedResNet
            "layers": list(settings.tower_layers),
            "width": settings.tower_channels,
            "image_size": settings.image_size,
        },
        "text_cfg": {
            "hf_model_name": text,
            "hf_tokenizer_name": text,
            "hf_pooler_type": "mean_pooler",
            "hf_proj_type": "mlp",
            "context_length": settings.text_tokens,
        },
    }


def untrained_clip(settings: EncoderSettings, pretrained_text: bool) -> open_clip.CustomTextCLIP:
    """The model of `architecture`, its image tower and projection freshly initialised."""
    from transformers import AutoConfig

    source = transformers_source(settings.text)
    family = AutoConfig.from_pretrained(source).model_type
    if family not in arch_dict:
        raise CorgiError(
            f"open_clip has no text tower for {family!r} encoders such as {settings.text!r}",
            f"train with a text encoder of a family it knows: {', '.join(arch_dict)}",
        )
    config = architecture(settings)
    config["text_cfg"] |= {"hf_model_name": source, "hf_model_pretrained": pretrained_text}
    with quiet_transformers():
        clip = open_clip.CustomTextCLIP(**config)
    size = (settings.image_size, settings.image_size)
    preprocessing = PreprocessCfg(size=size, mean=MEAN, std=STD, fill_color=255)
    set_model_preprocess_cfg(clip, asdict(preprocessing))
    return clip
