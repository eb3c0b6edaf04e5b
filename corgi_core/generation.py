"""What `corgi generate` does: captions and image files decide what is sampled, and into which file.

The file's metadata (a PNG's text chunk "corgi", a GIF's comment) says how its images were made.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from corgi_core.data.normalise import picture_file
from corgi_core.errors import CorgiError
from corgi_core.io.files import digest_of_bytes
from corgi_core.io.pictures import grid, labelled_grid, picture, save_gif, save_png
from corgi_core.pipeline import (
    BLEND_WEIGHT,
    DIFFERENCE_WEIGHT,
    CorgiPipeline,
    check_guidance,
    check_prompts,
)

if TYPE_CHECKING:
    from torch import Tensor

    from corgi_core.evaluation.nearest import Neighbours, TrainingImages

INTERPOLATION_IMAGES = 8  # by default
INTERPOLATION_COLUMNS = 8
MAX_NAME_LENGTH = 200  # bytes; an unfinished file has a longer name
COMBINATIONS = {(0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (1, 2)}  # (images, captions)


@dataclass(frozen=True)
class Request:
    """What to sample. `num_images` and `weight` are the defaults' where they were not given.

    Attributes:
        captions: None, one or two.
        names: The image files' names, of none, one or two.
        files: Their content, as plain RGB files.
        num_images: How many images.
        weight: How far an image goes towards captions, in [0, 1]; None where there are not both.
        seed: Of the prior's and the decoder's noise.
        num_steps: Sampling steps of the decoder; None is its own number.
        guidance: Guidance scale of the decoder; None is its own.
    """

    captions: tuple[str, ...]
    names: tuple[str, ...]
    files: tuple[bytes, ...]
    num_images: int
    weight: float | None
    seed: int
    num_steps: int | None
    guidance: float | None

    @classmethod
    def of(
        cls,
        captions: Sequence[str],
        images: Sequence[Path],
        num_images: int | None = None,
        weight: float | None = None,
        seed: int = 0,
        num_steps: int | None = None,
        guidance: float | None = None,
    ) -> Self:
        """The request that captions and image files make; None is the default.

        Raises:
            CorgiError: If nothing can be made of so many captions and images, a caption or the
                guidance is impossible, or an image cannot be read.
        """
        check_combination(len(images), len(captions), weight)
        files = [picture_file(image) for image in images]
        names = [image.name for image in images]
        return cls.of_files(captions, names, files, num_images, weight, seed, num_steps, guidance)

    @classmethod
    def of_files(
        cls,
        captions: Sequence[str],
        names: Sequence[str],
        files: Sequence[bytes],
        num_images: int | None = None,
        weight: float | None = None,
        seed: int = 0,
        num_steps: int | None = None,
        guidance: float | None = None,
    ) -> Self:
        """The same of images that were read: their names, and plain RGB files' bytes."""
        check_combination(len(files), len(captions), weight)
        if captions:
            check_prompts(captions)
        check_guidance(guidance)
        if weight is None and files and captions:
            weight = BLEND_WEIGHT if len(captions) == 1 else DIFFERENCE_WEIGHT
        request = cls(
            tuple(captions), tuple(names), tuple(files), 1, weight, seed, num_steps, guidance
        )
        default = INTERPOLATION_IMAGES if request.is_interpolation else 1
        return cls(**vars(request) | {"num_images": default if num_images is None else num_images})

    @property
    def is_interpolation(self) -> bool:
        """Whether the images lead from one point to another."""
        return len(self.captions) + len(self.files) > 1 and self._given != (1, 1)

    @property
    def _given(self) -> tuple[int, int]:
        return len(self.files), len(self.captions)

    def sample(self, pipeline: CorgiPipeline) -> Tensor:
        """The images [n, 3, s, s] in [0, 1]."""
        ends: list[Any] = [*self.files, *self.captions]
        options: dict[str, Any] = {
            "num_steps": self.num_steps, "guidance": self.guidance, "seed": self.seed,
            "num_images": self.num_images, "output_type": "pt",
        }  # fmt: skip
        match self._given:
            case (0, 1):
                images = pipeline.text_to_image(self.captions, **options)
            case (1, 0):
                images = pipeline.variations(self.files[0], **options)
            case (1, 1):
                images = pipeline.edit(
                    self.files[0], self.captions[0], weight=self.weight, **options
                )
            case (1, 2):
                before, after = self.captions
                images = pipeline.edit(
                    self.files[0], before=before, after=after, weight=self.weight, **options
                )
            case _:
                images = pipeline.interpolate(ends[0], ends[1], **options)
        assert not isinstance(images, list)
        return images

    def __str__(self) -> str:
        texts, n = [repr(caption) for caption in self.captions], self.num_images
        match [*self.names], texts:
            case [], [caption]:
                return f"{n} × {caption}"
            case [image], []:
                return f"{n} × variations of {image}"
            case [image], [caption]:
                return f"{n} × {image} with {caption}"
            case [image], [before, after]:
                return f"{image} in {n} steps from {before} towards {after}"
        first, last = [*self.names, *texts]
        return f"{n} steps from {first} to {last}"

    def metadata(self, pipeline: CorgiPipeline) -> dict[str, Any]:
        """How the images are made, for the file."""
        return {
            "captions": list(self.captions),
            "images": [
                {"name": name, "digest": digest_of_bytes(file)}
                for name, file in zip(self.names, self.files, strict=True)
            ],
            "count": self.num_images, "weight": self.weight, "seed": self.seed,
            "steps": self.num_steps, "guidance": self.guidance,
            "prior": pipeline.prior.digest, "decoder": pipeline.decoder.digest,
        }  # fmt: skip


def check_combination(images: int, captions: int, weight: float | None) -> None:
    """Raises CorgiError if nothing can be made of so many images and captions."""
    if (images, captions) not in COMBINATIONS:
        raise CorgiError(
            f"{images} images and {captions} captions were given",
            "give one or two captions, one or two images, or an image and one or two captions; "
            "`corgi generate --help` says what each makes",
        )
    if weight is not None and not (images and captions):
        raise CorgiError(
            "a weight says how far an image goes towards captions, and there are not both",
            "leave it out, or give an image and a caption",
        )


def check_output(out: Path, request: Request) -> None:
    """Raises CorgiError where the request cannot be written to `out`, a PNG or GIF file."""
    suffix = out.suffix.lower()
    if suffix not in (".png", ".gif"):
        raise CorgiError(
            f"{out} is no PNG or GIF file", "give --out a name that ends in .png or .gif"
        )
    if suffix == ".gif" and not request.is_interpolation:
        raise CorgiError(
            f"{out} would be animated, and these images lead from nothing to nothing",
            "give --out a name that ends in .png, or two captions or images to go between",
        )
    if len(os.fsencode(out.name)) > MAX_NAME_LENGTH:
        raise CorgiError(
            f"the name {out.name[:20]}… is too long", f"keep it under {MAX_NAME_LENGTH} bytes"
        )
    if out.is_dir():
        raise CorgiError(f"{out} is a folder", "give --out the name of a file")
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise CorgiError(
            f"{out} cannot be written: {folder} is no folder that you may write to",
            "give --out another path",
        )


def generate(
    pipeline: CorgiPipeline,
    request: Request,
    out: Path,
    training: TrainingImages | None = None,
    nearest: int = 0,
) -> str:
    """Sample what is requested and write it to a file, whole or not at all.

    Args:
        pipeline: Makes the images.
        request: What to make.
        out: The PNG or GIF file; its folder is made where there is none.
        training: The training images to compare with.
        nearest: How many nearest training images to show beside each image.

    Returns:
        One or two sentences that say what was made.

    Raises:
        CorgiError: If the models cannot make it, or the file cannot be written.
    """
    check_output(out, request)
    pipeline.check_num_images(request.num_images)
    pipeline.check_num_images(request.num_images * (1 + nearest))
    images = request.sample(pipeline).cpu()
    metadata, text = request.metadata(pipeline), f"{out}: {request}"
    beside = None
    if training is not None:
        neighbours = training.nearest(pipeline.embed_image(images), nearest)
        beside = training.beside(images, neighbours)
        metadata["nearest"] = _as_json(neighbours)
        text += _most_alike(training, neighbours)
    columns = (
        INTERPOLATION_COLUMNS if request.is_interpolation else math.ceil(math.sqrt(len(images)))
    )
    try:
        _write(out, images, columns, metadata, beside)
    except OSError as error:
        raise CorgiError(
            f"{out} cannot be written ({error.strerror})", "give --out another path"
        ) from error
    return text


def _write(
    out: Path,
    images: Tensor,
    columns: int,
    metadata: Mapping[str, Any],
    beside: tuple[list[str], dict[str, Tensor]] | None,
) -> None:
    """A PNG of all images or a GIF of one after the other, each with what stands beside it."""
    if out.suffix.lower() == ".gif":
        frames = [picture(image) for image in images]
        if beside is not None:
            labels, by_heading = beside
            frames = [
                labelled_grid([label], {h: each[i : i + 1] for h, each in by_heading.items()})
                for i, label in enumerate(labels)
            ]
        save_gif(frames, out, metadata)
    elif beside is not None:
        save_png(labelled_grid(*beside), out, metadata)
    else:
        save_png(picture(images[0]) if len(images) == 1 else grid(images, columns), out, metadata)


def _as_json(neighbours: Neighbours) -> list[list[dict[str, Any]]]:
    return [
        [{"key": key, "cosine": round(float(cosine), 4)} for key, cosine in zip(*row, strict=True)]
        for row in zip(neighbours.keys.tolist(), neighbours.cosines, strict=True)
    ]


def _most_alike(training: TrainingImages, neighbours: Neighbours) -> str:
    """The training image that any of the images is most like, in a line of its own."""
    row = int(neighbours.cosines[:, 0].argmax())
    (name,) = training.names(neighbours.keys[row, :1].tolist())
    return f"\nMost like the training image {name!r} (cosine {neighbours.cosines[row, 0]:.4f})"
