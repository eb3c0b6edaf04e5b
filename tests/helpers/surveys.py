"""A suite's folder with one-coloured pictures of several models, and a survey on them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from corgi_core.rating.survey import Kind, Survey
from corgi_core.rating.votes import VoteStore
from corgi_core.suites.folder import SuiteFolder
from corgi_core.suites.prompts import Prompt, PromptSuite

COLORS = {"ours": (200, 0, 0), "sd": (0, 200, 0), "gan": (0, 0, 200), "lafite": (90, 90, 90)}


def small_suite(folder: Path, models: Sequence[str], prompts: int = 40) -> SuiteFolder:
    """Pictures of one pixel, each model's in its colour, with its name in their metadata."""
    every = [Prompt(n, f"prompt {n}", "ab"[n % 2]) for n in range(1, prompts + 1)]
    suite = SuiteFolder.create(folder, PromptSuite("small", tuple(every)))
    for model, prompt, seed in itertools.product(models, every, (0, 1)):
        path = suite.picture(model, prompt.number, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        about = PngInfo()
        about.add_text("corgi", model)
        Image.new("RGB", (1, 1), COLORS[model]).save(path, pnginfo=about)
    return suite


def small_store(
    folder: Path, models: Sequence[str], kind: Kind | None = None, questions: int = 40
) -> tuple[SuiteFolder, VoteStore]:
    """The same with an empty store of a survey on all the models."""
    suite = small_suite(folder, models)
    survey = Survey.of(suite, [], kind, questions)
    return suite, VoteStore.create(folder / "votes.sqlite", survey)
