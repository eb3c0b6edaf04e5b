"""From pictures to the API's answers."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import numpy as np
from numpy.typing import NDArray
from PIL.PngImagePlugin import PngInfo
from starlette.responses import JSONResponse, Response

from corgi_core.generation import Request
from corgi_core.io.pictures import picture
from corgi_core.serving.engine import Model
from corgi_core.serving.pictures import Picture
from corgi_core.serving.schemas import (
    ImageOrder,
    MadeImages,
    ModelName,
    NearestImage,
    NormalisedOrder,
)

PNG = "image/png"
COMMON_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def _normalised(order: ImageOrder, asked: Request) -> NormalisedOrder:
    return NormalisedOrder(
        prompts=list(asked.captions),
        num_images=asked.num_images,
        weight=asked.weight,
        seed=asked.seed,
        num_steps=asked.num_steps,
        guidance=asked.guidance,
        prior_steps=order.prior_steps,
        gaussian=order.gaussian,
        decoder=order.decoder,
        nearest=order.nearest,
    )


def json_answer(
    model: Model, order: ImageOrder, asked: Request, made: Sequence[Picture]
) -> Response:
    """Images in base64, with all that is known of them."""
    made_by, normalised = model.made_by(order.decoder), _normalised(order, asked)
    metadata = normalised.model_dump() | {"model": made_by["digests"]}
    answer = MadeImages(
        images=[_base64(_png(each.pixels, metadata)) for each in made],
        model=ModelName(**made_by),
        request=normalised,
        gaussians=list(made[0].gaussians),
        nearest=[
            [
                NearestImage(name=n.name, cosine=n.cosine, image=_base64(_png(n.pixels, {})))
                for n in each.nearest
            ]
            for each in made
        ],
        link=None if asked.files else _link(normalised, made_by["id"]),
    )
    return JSONResponse(answer.model_dump(), headers=COMMON_HEADERS)


def png_answer(
    model: Model, order: ImageOrder, asked: Request, made: Sequence[Picture]
) -> Response:
    """The first image as a PNG, whose text chunk "corgi" says how it was made."""
    normalised = _normalised(order, asked)
    metadata = normalised.model_dump() | {"model": model.made_by(order.decoder)["digests"]}
    content = _png(made[0].pixels, metadata)
    return Response(content, media_type=PNG, headers=COMMON_HEADERS)


def _link(request: NormalisedOrder, model: str) -> str:
    """The page's address that makes the same images: a parameter for each value, and the model."""
    values = request.model_dump(exclude_none=True)
    prompts = [("prompt", prompt) for prompt in values.pop("prompts")]
    return "/?" + urlencode([*prompts, *values.items(), ("model", model)])


def _png(pixels: NDArray[np.float32], metadata: Mapping[str, Any]) -> bytes:
    """The file of pixels [3, s, s] in [0, 1], with `metadata` in its text chunk "corgi"."""
    text, content = PngInfo(), io.BytesIO()
    if metadata:
        text.add_itxt("corgi", json.dumps(dict(metadata), sort_keys=True, ensure_ascii=False))
    picture(pixels).save(content, format="PNG", pnginfo=text)
    return content.getvalue()


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
