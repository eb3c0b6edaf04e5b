"""From the API's orders to what `corgi generate` calls a request."""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Mapping
from typing import Any

from corgi_core.config import DataSettings
from corgi_core.data.normalise import UnfitError, normalise, without_warnings
from corgi_core.errors import CorgiError
from corgi_core.generation import Request
from corgi_core.serving.schemas import MAX_BYTES, MAX_PIXELS, MAX_SEED, ImageOrder


def generation_of(order: ImageOrder, about: Mapping[str, Any]) -> Request:
    """What an order asks of the models; its images are read and made plain.

    Args:
        order: The order.
        about: `ServedModel.about`: its defaults are the champion decoder's where the order leaves
            them open, so that orders that mean the same are sampled together.

    Raises:
        CorgiError: If nothing can be made of so many prompts and images, or an image is none.
    """
    files = [_plain_file(image) for image in order.images]
    names = [f"image {number}" for number in range(1, len(files) + 1)]
    seed = secrets.randbelow(MAX_SEED + 1) if order.seed is None else order.seed
    num_steps, guidance = order.num_steps, order.guidance
    if order.decoder is None:
        num_steps = about["num_steps"] if num_steps is None else num_steps
        guidance = about["guidance"] if guidance is None else guidance
    return Request.of_files(
        order.prompts, names, files, order.num_images, order.weight, seed, num_steps, guidance
    )


def _plain_file(image: str) -> bytes:
    """The plain RGB file of an image in base64."""
    remedy = "send the file of a picture that an ordinary viewer can open, in base64"
    try:
        content = base64.b64decode(image, validate=True)
    except (binascii.Error, ValueError) as error:
        raise CorgiError(f"an image is no base64 ({error})", remedy) from error
    if len(content) > MAX_BYTES:
        raise CorgiError(f"an image is larger than {MAX_BYTES >> 20} MiB", "send a smaller one")
    try:
        with without_warnings():
            return normalise(content, MAX_PIXELS, DataSettings().max_side).image
    except UnfitError as unfit:
        raise CorgiError(f"an image cannot be used ({unfit})", remedy) from unfit
