"""A model's pictures of a suite's prompts; those that are there already are not made again.

The picture of a prompt with seed s is what the model's `text_to_image(prompt, seed=s)` gives,
however many prompts are sampled together and wherever a killed run went on.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, Protocol

from corgi_core.io.pictures import save_png
from corgi_core.progress import report
from corgi_core.suites.folder import SuiteFolder

BATCH = 16  # prompts that are sampled together


class TextToImage(Protocol):
    """A model that makes pictures: `CorgiPipeline`, `DiffusersModel`."""

    def made_by(
        self, num_steps: int | None = None, guidance: float | None = None
    ) -> dict[str, Any]:
        """Names the model and the options: where they are equal, so are the pictures."""

    def text_to_image(
        self,
        prompts: Sequence[str],
        *,
        num_steps: int | None = None,
        guidance: float | None = None,
        seed: int = 0,
    ) -> Any:
        """PIL images, one of each prompt."""


def make_pictures(
    folder: SuiteFolder,
    model: str,
    pipeline: TextToImage,
    seeds: Sequence[int],
    num_steps: int | None = None,
    guidance: float | None = None,
) -> int:
    """Make a model's missing pictures, each file whole or not at all.

    Args:
        folder: The suite's.
        model: What to call the model.
        pipeline: Makes the pictures.
        seeds: A picture of each prompt with each seed.
        num_steps: Sampling steps of the model's decoder; None is its own number.
        guidance: Guidance scale of the model's decoder; None is its own.

    Returns:
        How many were missing.

    Raises:
        CorgiError: If the name's pictures were made by another model, or with other options.
    """
    made_by = pipeline.made_by(num_steps, guidance)
    folder.enter_model(model, made_by)
    missing = {
        seed: [
            prompt
            for prompt in folder.suite.prompts
            if not folder.picture(model, prompt.number, seed).exists()
        ]
        for seed in seeds
    }
    total = sum(map(len, missing.values()))
    done = 0
    for seed, prompts in missing.items():
        following = iter(prompts)
        while batch := list(islice(following, BATCH)):
            report(f"{model}: pictures", done, total)
            images = pipeline.text_to_image(
                [prompt.text for prompt in batch],
                num_steps=num_steps,
                guidance=guidance,
                seed=seed,
            )
            for prompt, image in zip(batch, images, strict=True):
                about = {**made_by, "captions": [prompt.text], "seed": seed, "count": 1}
                save_png(image, folder.picture(model, prompt.number, seed), about)
            done += len(batch)
    report(f"{model}: pictures", total, total)
    return total
