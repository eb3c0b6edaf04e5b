"""Pictures of many requests, sampled together: each depends on its own request and number alone.

A picture's noise is that of (seed, number), as `CorgiPipeline` has it, and what is asked for twice
in a batch (a caption's sample, an image's embedding) is computed once. The batch decides how
products are rounded, and nothing else: a value of 0 … 255 may differ by 1.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corgi_core.decoders.decoder import TextCond
from corgi_core.diffusion.samplers import sample_id_of
from corgi_core.encoders.spherical import interpolation, slerp, text_difference
from corgi_core.generation import Request
from corgi_core.pipeline import CorgiPipeline

if TYPE_CHECKING:
    from corgi_core.evaluation.nearest import TrainingImages


@dataclass(frozen=True)
class OrderedPicture:
    """One picture of a request.

    Attributes:
        request: What was asked for.
        number: The picture's, from 0.
        gaussian: The Gaussian that captions start from; None: each chooses its own.
        decoder: The decoder's alias; None: the champion.
        nearest: How many of the nearest training images are wanted beside it.
        prior_steps: Sampling steps of the prior; None is its own number.
    """

    request: Request
    number: int
    gaussian: int | None = None
    decoder: str | None = None
    nearest: int = 0
    prior_steps: int | None = None

    @property
    def key(self) -> Hashable:
        """Equal for pictures that can be sampled together."""
        request = self.request
        steps = request.num_steps, self.prior_steps
        return self.decoder, *steps, request.guidance, self.caption is None

    @property
    def caption(self) -> str | None:
        """What a decoder that reads text reads beside the embedding."""
        one = len(self.request.captions) == 1
        return self.request.captions[0] if one else None

    @property
    def noise(self) -> int:
        """The sample whose noise the decoder starts from; all pictures of a path have one."""
        number = 0 if self.request.is_interpolation else self.number
        return sample_id_of(self.request.seed, number)

    @property
    def samples(self) -> list[CaptionSample]:
        """The samples of the prior that the picture is made of."""
        captions = self.request.captions
        if len(captions) > 1 and self.request.files:
            return []  # an edit along the difference of their text embeddings
        noise = sample_id_of(self.request.seed, self.number if len(captions) == 1 else 0)
        return [CaptionSample(caption, noise, self.gaussian) for caption in captions]


@dataclass(frozen=True)
class CaptionSample:
    """A sample of the prior: its caption, its noise, and its Gaussian, None if the caption chooses.

    The noise is a number of `sample_id_of`.
    """

    caption: str
    noise: int
    gaussian: int | None


@dataclass(frozen=True)
class Neighbour:
    """A training image: its first caption or key, its cosine, and its pixels [3, s, s]."""

    name: str
    cosine: float
    pixels: NDArray[np.float32]


@dataclass(frozen=True)
class Picture:
    """A picture that was made.

    Attributes:
        pixels: float32 [3, s, s] in [0, 1].
        gaussians: The Gaussians that its captions started from.
        nearest: The nearest training images, nearest first.
    """

    pixels: NDArray[np.float32]
    gaussians: tuple[int, ...]
    nearest: tuple[Neighbour, ...] = ()


@torch.no_grad()
def sample_pictures(
    pipeline: CorgiPipeline,
    ordered: Sequence[OrderedPicture],
    training: TrainingImages | None = None,
) -> list[Picture]:
    """The pictures that were ordered, all of one `key`, in their order.

    Args:
        pipeline: Makes them.
        ordered: What to make.
        training: The training images among which the nearest are looked for.

    Raises:
        CorgiError: If the models cannot make one of them.
    """
    points = _Points(pipeline, ordered)
    options = ordered[0].request
    images = pipeline.decoder.decode(
        torch.stack([points.of(each) for each in ordered]), _text(pipeline, ordered),
        num_steps=options.num_steps, guidance=options.guidance,
        seed=0, sample_ids=[each.noise for each in ordered],
    )  # fmt: skip
    nearest = _nearest(pipeline, ordered, images, training)
    return [
        Picture(pixels, points.gaussians_of(each), tuple(neighbours))
        for each, pixels, neighbours in zip(ordered, images.cpu().numpy(), nearest, strict=True)
    ]


class _Points:
    """Embeddings that a batch's pictures are made of, each computed once."""

    def __init__(self, pipeline: CorgiPipeline, ordered: Sequence[OrderedPicture]) -> None:
        self._dims = pipeline.encoder_dims
        samples = list(dict.fromkeys(sample for each in ordered for sample in each.samples))
        z, gaussians = _sampled(pipeline, samples, ordered[0].prior_steps)
        self._samples = dict(zip(samples, z, strict=True))
        self._gaussians = dict(zip(samples, gaussians, strict=True))
        files = list(dict.fromkeys(file for each in ordered for file in each.request.files))
        self._images = dict(zip(files, pipeline.embed_image(files), strict=True)) if files else {}
        texts = list(
            dict.fromkeys(
                caption for each in ordered if not each.samples for caption in each.request.captions
            )
        )
        self._texts = (
            dict(zip(texts, pipeline.clip.encode_texts(texts), strict=True)) if texts else {}
        )

    def of(self, ordered: OrderedPicture) -> Tensor:
        """The embedding [d] of one picture."""
        request = ordered.request
        images: list[Tensor] = [self._images[file] for file in request.files]
        samples: list[Tensor] = [self._samples[sample] for sample in ordered.samples]
        if not request.is_interpolation:
            if len(images) + len(samples) == 1:
                return (images + samples)[0]
            return slerp(images[0], samples[0], request.weight or 0.0, self._dims)
        if not request.captions or samples:
            start, end = images or samples
        else:
            start, end = images[0], self._edited(images[0], request)
            if request.num_images == 1:
                return end
        return interpolation(start, end, request.num_images, self._dims)[ordered.number]

    def gaussians_of(self, ordered: OrderedPicture) -> tuple[int, ...]:
        """The Gaussians that a picture's captions started from."""
        return tuple(self._gaussians[sample] for sample in ordered.samples)

    def _edited(self, image: Tensor, request: Request) -> Tensor:
        """An image's embedding [d], turned as the second caption differs from the first."""
        before, after = (self._texts[caption] for caption in request.captions)
        direction = text_difference(before, after, self._dims)
        return slerp(image, direction, request.weight or 0.0, self._dims)


def _sampled(
    pipeline: CorgiPipeline, samples: Sequence[CaptionSample], num_steps: int | None
) -> tuple[Tensor, list[int]]:
    """The prior's samples [n, d] and the Gaussians that they started from."""
    if not samples:
        return torch.empty(0, sum(pipeline.encoder_dims)), []
    captions = [sample.caption for sample in samples]
    text = pipeline.clip.encode_texts(captions)
    if pipeline.decoder.input_kind == "text":
        return text, [0] * len(samples)
    tokens, attn_mask = pipeline.tokens.encode(captions)
    gaussians = pipeline.prior.choose(
        tokens, attn_mask, text, [sample.gaussian for sample in samples]
    )
    z = pipeline.prior.sample(
        tokens, attn_mask, text, num_steps=num_steps, gaussians=gaussians,
        seed=0, sample_ids=[sample.noise for sample in samples],
    )  # fmt: skip
    return z, gaussians.tolist()


def _text(pipeline: CorgiPipeline, ordered: Sequence[OrderedPicture]) -> TextCond | None:
    """The captions of the pictures, for decoders that read text."""
    captions = [each.caption for each in ordered if each.caption is not None]
    if not captions or not pipeline.decoder.reads_text:
        return None
    return TextCond(*pipeline.tokens.encode(captions))


def _nearest(
    pipeline: CorgiPipeline,
    ordered: Sequence[OrderedPicture],
    images: Tensor,
    training: TrainingImages | None,
) -> list[list[Neighbour]]:
    """The training images nearest to each of the images [n, 3, s, s] that wants some."""
    rows = [row for row, each in enumerate(ordered) if each.nearest]
    nearest: list[list[Neighbour]] = [[] for _ in ordered]
    if not rows or training is None:
        return nearest
    most = max(ordered[row].nearest for row in rows)
    found = training.nearest(pipeline.embed_image(images[rows]), most)
    keys = found.keys.ravel().tolist()
    names, pixels = training.names(keys), training.pictures(keys, images.shape[-1]).numpy()
    for i, row in enumerate(rows):
        nearest[row] = [
            Neighbour(names[i * most + j], float(found.cosines[i, j]), pixels[i * most + j])
            for j in range(ordered[row].nearest)
        ]
    return nearest
