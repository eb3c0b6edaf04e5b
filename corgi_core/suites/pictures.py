"""A model's pictures of a suite's prompts; those that are there already are not made again.

The picture of a prompt with seed s is what `CorgiPipeline.text_to_image(prompt, seed=s)` gives,
however many prompts are sampled together and wherever a killed run went on.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from corgi_core.io.pictures import save_png
from corgi_core.progress import report
from corgi_core.suites.folder import SuiteFolder
from corgi_core.suites.prompts import Prompt

if TYPE_CHECKING:
    from corgi_core.pipeline import CorgiPipeline

BATCH = 16  # prompts that are sampled together


def make_pictures(
    folder: SuiteFolder,
    model: str,
    pipeline: CorgiPipeline,
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
        num_steps: Sampling steps of the decoder; None is its own number.
        guidance: Guidance scale of the decoder; None is its own.

    Returns:
        How many were missing.

    Raises:
        CorgiError: If the name's pictures were made by another model, or with other options.
    """
    made_by: dict[str, Any] = {
        "prior": pipeline.prior.digest,
        "decoder": pipeline.decoder.digest,
        "steps": num_steps,
        "guidance": guidance,
    }
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
            _make(folder, model, pipeline, batch, seed, made_by)
            done += len(batch)
    report(f"{model}: pictures", total, total)
    return total


def _make(
    folder: SuiteFolder,
    model: str,
    pipeline: CorgiPipeline,
    prompts: Sequence[Prompt],
    seed: int,
    made_by: dict[str, Any],
) -> None:
    """Sample a batch of prompts with one seed and write the pictures."""
    images = pipeline.text_to_image(
        [prompt.text for prompt in prompts],
        num_steps=made_by["steps"],
        guidance=made_by["guidance"],
        seed=seed,
    )
    assert isinstance(images, list)
    for prompt, image in zip(prompts, images, strict=True):
        about = {**made_by, "captions": [prompt.text], "seed": seed, "count": 1}
        save_png(image, folder.picture(model, prompt.number, seed), about)
