"""Images as people have them (PIL, files, bytes, tensors) as the squares that encoders read."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from corgi_core.config import DataSettings, Framing
from corgi_core.data.normalise import UnfitError, normalise, picture_file, without_warnings
from corgi_core.data.pixels import square
from corgi_core.errors import CorgiError

ImageInput: TypeAlias = Image.Image | Tensor | bytes | str | Path
"""A PIL image, a file's path or bytes, or a tensor [3, h, w]: uint8, or float in [0, 1]."""


def image_squares(
    images: ImageInput | Sequence[ImageInput], size: int, framing: Framing = "letterbox"
) -> Tensor:
    """Images as squares, prepared as the training images are.

    Args:
        images: One image, several, or a tensor of several, [n, 3, h, w].
        size: The squares' side in pixels.
        framing: As `corgi_core.data.pixels.square` has it.

    Returns:
        uint8 [n, 3, size, size] in 0 … 255.

    Raises:
        CorgiError: If there is no image, a file cannot be read, or a tensor holds no image.
    """
    if isinstance(images, Tensor):
        several = list(images) if images.ndim == 4 else [images]
    elif isinstance(images, Sequence) and not isinstance(images, str | bytes):
        several = list(images)
    else:
        several = [images]
    if not several:
        raise CorgiError("there is no image to embed", "give at least one")
    return torch.stack(
        [
            _tensor_square(image, size, framing)
            if isinstance(image, Tensor)
            else torch.from_numpy(square(_plain_file(image), size, framing).copy())
            for image in several
        ]
    )


def _plain_file(image: Image.Image | bytes | str | Path) -> bytes:
    """The image as the quality gate would store it: a plain RGB file's bytes."""
    if isinstance(image, str | Path):
        return picture_file(Path(image))
    content = image if isinstance(image, bytes) else _file_of(image)
    limits = DataSettings()
    try:
        with without_warnings():
            return normalise(content, limits.max_pixels, limits.max_side).image
    except UnfitError as unfit:
        raise CorgiError(
            f"the image cannot be used ({unfit})", "give one that an ordinary viewer can open"
        ) from unfit


def _file_of(image: Image.Image) -> bytes:
    """A lossless file of an image of any mode, upright, with its transparency."""
    upright = ImageOps.exif_transpose(image)
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
    content = io.BytesIO()
    upright.save(content, format="TIFF")
    return content.getvalue()


def _tensor_square(image: Tensor, size: int, framing: Framing) -> Tensor:
    if image.ndim != 3 or image.shape[0] != 3 or image.numel() == 0:
        raise CorgiError(
            f"a tensor of shape {list(image.shape)} is no image", "give RGB images [3, h, w]"
        )
    pixels = image.detach().cpu()
    pixels = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
    if not bool(((pixels >= 0) & (pixels <= 1)).all()):  # NaN is neither
        raise CorgiError(
            f"an image's values go from {pixels.min():.3g} to {pixels.max():.3g}",
            "give float images in [0, 1], or uint8 images",
        )
    height, width = pixels.shape[1:]
    side = min(height, width) if framing == "crop" else max(height, width)
    across, down = side - width, side - height  # negative where something is cut off
    padding = (across // 2, across - across // 2, down // 2, down - down // 2)
    pixels = F.pad(pixels, padding, value=1.0)
    if pixels.shape[-1] != size:
        pixels = F.interpolate(
            pixels[None], size=(size, size), mode="bicubic", antialias=True
        ).clamp(0, 1)[0]
    return (pixels * 255).round().to(torch.uint8)
