"""Images in main memory → CLIP embeddings, beside open_clip's own loop. Needs open_clip.

Ours moves bytes and normalises them on the device. A plain loop's DataLoader has normalised them on
the CPU; it moves float32, and encodes under autocast.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_cases.case import Case, Sizes, System, precision_of
from corgi_core.devices import inference

ARCHITECTURES = ("ViT-B-16", "ViT-B-32", "RN101")
IMAGES, FEW = 512, 4
SMALL_VISION: dict[bool, dict[str, Any]] = {  # by whether the tower is a ResNet
    False: {"layers": 1, "width": 64, "patch_size": 16, "image_size": 32},
    True: {"layers": [1, 1, 1, 1], "width": 8, "image_size": 64},
}


def cases(sizes: Sizes) -> Iterator[Case]:
    """One for each architecture, with random weights."""
    from corgi_core.encoders.clip import ClipEnsemble

    for name in ARCHITECTURES:
        encoder = untrained(name, sizes.small)
        clip = ClipEnsemble([encoder]).to(sizes.device)
        count = FEW if sizes.small else IMAGES
        pixels = torch.randint(256, (count, 3, encoder.image_size, encoder.image_size))
        images = pixels.to(torch.uint8)
        normalised = (images / 255 - encoder.mean.cpu()) / encoder.std.cpu()
        yield Case(
            f"{name}: embedding", "images", count, precision_of(sizes),
            System("corgi", lambda clip=clip, images=images: clip.encode_images(images), count),
            System(
                "open_clip",
                lambda encoder=encoder, normalised=normalised: plain(
                    encoder.model, normalised, sizes.device
                ),
                count,
            ),
        )  # fmt: skip


def untrained(name: str, small: bool) -> Any:
    """The encoder of an architecture, or a small one like it, with random weights."""
    import open_clip

    from corgi_core.encoders.open_clip_model import OpenClipModel

    config: dict[str, Any] = open_clip.get_model_config(name)
    if small:
        resnet = isinstance(config["vision_cfg"]["layers"], list)
        config["vision_cfg"] |= SMALL_VISION[resnet]
        config["text_cfg"] |= {"width": 64, "heads": 2, "layers": 1}
        config["embed_dim"] = 16
    model = open_clip.CLIP(**config)
    size = config["vision_cfg"]["image_size"]
    preprocessing = open_clip.transform.PreprocessCfg(size=size)
    open_clip.model.set_model_preprocess_cfg(model, vars(preprocessing))
    return OpenClipModel(name, model, config, tokenizer=None)


@torch.no_grad()
def plain(model: Any, images: Tensor, device: torch.device) -> Tensor:
    """open_clip's loop over one batch."""
    with inference(device, "auto"):
        features = model.encode_image(images.to(device, non_blocking=True))
        features /= features.norm(dim=-1, keepdim=True)
    return features
