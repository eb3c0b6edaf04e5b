"""Any text-to-image pipeline of diffusers, from its folder, such as Stable Diffusion or Kandinsky.

It makes pictures of a suite beside Corgi's models. It is called as its own documentation says, with
its own defaults for all that is not asked for, and these are noted with the pictures.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from corgi_core.batches import batches
from corgi_core.devices import inference
from corgi_core.errors import CorgiError
from corgi_core.io.diffusers_folder import check_no_code, digest_of_diffusers
from corgi_core.out_of_memory import out_of_memory_explained

if TYPE_CHECKING:
    from PIL import Image

INDEX = "model_index.json"
STEPS, GUIDANCE = "num_inference_steps", "guidance_scale"  # as most pipelines call them
AT_ONCE = 4  # prompts in a first batch; on a GPU the next ones are as large as its memory holds
ROUNDING = 4.0  # of 255: a mean difference up to which two pictures are the same but for rounding
LESS_MEMORY = "take a smaller pipeline, end what else uses that memory, or compute on the CPU"


class DiffusersModel:
    """A text-to-image pipeline of diffusers.

    The picture of a prompt with seed s is the pipeline's own with a generator of that seed,
    `torch.Generator().manual_seed(s)`. Prompts are sampled in batches, each from a generator of its
    own, so that no picture depends on the others but by rounding. Whether a pipeline's batches are
    so is tried once; where they are not, prompts are sampled one by one.

    Attributes:
        pipeline: The loaded pipeline.
        digest: Names its files.
    """

    def __init__(self, pipeline: Any, digest: str) -> None:
        self.pipeline = pipeline
        self.digest = digest
        self.precision = "auto"
        self._takes_batches: bool | None = None  # not known before they are tried

    @staticmethod
    def is_in(folder: Path) -> bool:
        """Whether a folder is one that diffusers' `save_pretrained` wrote."""
        return (folder / INDEX).is_file()

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The pipeline of a folder, on the CPU, in float32.

        Raises:
            CorgiError: If the folder holds program code or weights that are not safetensors, or the
                pipeline makes pictures of something else than text.
        """
        from diffusers.pipelines.pipeline_utils import DiffusionPipeline

        check_no_code(folder)
        load: Any = DiffusionPipeline.from_pretrained
        try:
            pipeline = load(
                str(folder), use_safetensors=True, local_files_only=True, dtype=torch.float32
            )
        except (OSError, ValueError, AttributeError, ImportError) as failure:
            reason = " ".join(str(failure).split()).partition(". ")[0]
            raise CorgiError(
                f"the diffusers pipeline in {folder} cannot be loaded: {reason}",
                "give a folder that its save_pretrained wrote, weights as safetensors, or install "
                "the version of diffusers that wrote it",
            ) from failure
        pipeline.set_progress_bar_config(disable=True)
        model = cls(pipeline, digest_of_diffusers(folder))
        model._check_reads_text(folder)
        return model

    def to(self, device: torch.device | str, precision: str = "auto") -> Self:
        """Move all networks to a device, in place; `precision` is that of products on a GPU."""
        with out_of_memory_explained("moving a diffusers pipeline there", LESS_MEMORY):
            self.pipeline.to(device)
        self.precision = precision
        return self

    def made_by(
        self, num_steps: int | None = None, guidance: float | None = None
    ) -> dict[str, Any]:
        """The pipeline, its scheduler, and every option that it is called with, defaults too."""
        scheduler = getattr(self.pipeline, "scheduler", None)
        return {
            "pipeline": type(self.pipeline).__name__,
            "digest": self.digest,
            "scheduler": type(scheduler).__name__ if scheduler is not None else None,
            "precision": self.precision,
            "options": self._defaults() | self._asked(num_steps, guidance),
        }

    def text_to_image(
        self,
        prompts: Sequence[str],
        *,
        num_steps: int | None = None,
        guidance: float | None = None,
        seed: int = 0,
    ) -> Iterator[Image.Image]:
        """A picture of each prompt, all with one seed, a batch as soon as it is made.

        Args:
            prompts: The prompts.
            num_steps: Sampling steps; None is the pipeline's default.
            guidance: The guidance scale; None is the pipeline's default.
            seed: Of each picture's own generator.

        Raises:
            CorgiError: If the pipeline has no such option, gives no pictures, or memory runs out.
        """
        asked = self._asked(num_steps, guidance)
        for rows in batches(len(prompts), torch.device(self.pipeline.device), AT_ONCE):
            yield from self._pictures(prompts[rows], seed, asked)

    def _pictures(
        self, prompts: Sequence[str], seed: int, asked: dict[str, Any]
    ) -> list[Image.Image]:
        """The pictures of a batch; of the first one the last picture is made alone too."""
        if len(prompts) == 1 or self._takes_batches is False:
            return [self._picture(prompt, seed, asked) for prompt in prompts]
        if self._takes_batches:
            return self._batch(prompts, seed, asked)
        last = self._picture(prompts[-1], seed, asked)
        try:
            images = self._batch(prompts, seed, asked)
        except (TypeError, ValueError, AttributeError, RuntimeError):  # no lists, or no memory
            images = []
        self._takes_batches = len(images) == len(prompts) and _alike(images[-1], last)
        if self._takes_batches:
            return images
        return [*(self._picture(prompt, seed, asked) for prompt in prompts[:-1]), last]

    def _picture(self, prompt: str, seed: int, asked: dict[str, Any]) -> Image.Image:
        (image,) = self._images(prompt, torch.Generator().manual_seed(seed), asked)
        return image

    def _batch(self, prompts: Sequence[str], seed: int, asked: dict[str, Any]) -> list[Image.Image]:
        generators = [torch.Generator().manual_seed(seed) for _ in prompts]
        return self._images(list(prompts), generators, asked)

    def _images(self, prompt: Any, generator: Any, asked: dict[str, Any]) -> list[Image.Image]:
        with (
            inference(self.pipeline.device, self.precision),
            out_of_memory_explained("making pictures", LESS_MEMORY),
        ):
            made = self.pipeline(prompt=prompt, generator=generator, **asked)
        if not hasattr(made, "images"):
            raise CorgiError(
                f"{type(self.pipeline).__name__} gives no pictures",
                "give a text-to-image pipeline, not a part of one such as a prior",
            )
        return list(made.images)

    def _parameters(self) -> dict[str, inspect.Parameter]:
        return dict(inspect.signature(self.pipeline.__call__).parameters)

    def _defaults(self) -> dict[str, Any]:
        """The defaults of the call that are plain numbers or words."""
        defaults = {name: parameter.default for name, parameter in self._parameters().items()}
        return {n: value for n, value in defaults.items() if isinstance(value, int | float | str)}

    def _asked(self, num_steps: int | None, guidance: float | None) -> dict[str, Any]:
        given = {STEPS: num_steps, GUIDANCE: guidance}
        asked = {name: value for name, value in given.items() if value is not None}
        if unknown := set(asked) - set(self._parameters()):
            raise CorgiError(
                f"{type(self.pipeline).__name__} takes no {' and no '.join(sorted(unknown))}",
                "leave that option out: the pipeline has its own",
            )
        return asked

    def _check_reads_text(self, folder: Path) -> None:
        parameters = self._parameters()
        needed = {
            name for name, parameter in parameters.items()
            if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        }  # fmt: skip
        needed |= {"image", "mask_image", "image_embeds"} & set(parameters)
        if not {"prompt", "generator"} <= set(parameters) or needed - {"prompt"}:
            raise CorgiError(
                f"{type(self.pipeline).__name__} in {folder} needs more than a prompt and a seed",
                "give a pipeline that makes pictures of text alone",
            )


def _alike(image: Image.Image, other: Image.Image) -> bool:
    """Whether two pictures are the same but for rounding."""
    if image.size != other.size:
        return False
    a, b = (np.asarray(each.convert("RGB"), dtype=np.float32) for each in (image, other))
    return float(np.abs(a - b).mean()) <= ROUNDING
