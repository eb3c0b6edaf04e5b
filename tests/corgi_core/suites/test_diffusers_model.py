"""A diffusers pipeline makes pictures of a suite: its own, with its own defaults."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from transformers import CLIPTextModel

from corgi_core.errors import CorgiError
from corgi_core.suites.diffusers_model import DiffusersModel
from corgi_core.suites.folder import SuiteFolder
from corgi_core.suites.gallery import write_gallery
from corgi_core.suites.models import ModelSource
from corgi_core.suites.pictures import make_pictures
from corgi_core.suites.prompts import Prompt, PromptSuite
from tests.helpers.tiny_clip_text import tiny_text_config, tiny_tokenizer
from tests.helpers.tiny_diffusion import tiny_scheduler, tiny_unet, tiny_vae

SUITE = PromptSuite("small", (Prompt(1, "a cat"), Prompt(2, "a dog")))
SEEDS = (0, 3)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny-sd")
    pipeline = StableDiffusionPipeline(
        tiny_vae(), CLIPTextModel(tiny_text_config(24)), tiny_tokenizer(), tiny_unet(),
        tiny_scheduler(), None, None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="module")
def made(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> SuiteFolder:
    folder = SuiteFolder.create(tmp_path_factory.mktemp("suite"), SUITE)
    model = ModelSource.of(f"sd={saved}").load(Path("no-home"))
    assert make_pictures(folder, "sd", model.to("cpu"), SEEDS, num_steps=2) == 4
    return folder


def test_each_picture_is_the_pipelines_own_of_its_prompt_and_seed(
    saved: Path, made: SuiteFolder
) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(saved)
    found = {}
    for prompt in SUITE.prompts:
        for seed in SEEDS:
            generator = torch.Generator().manual_seed(seed)
            expected = pipeline(prompt.text, num_inference_steps=2, generator=generator).images[0]
            found[prompt.number, seed] = np.asarray(
                Image.open(made.picture("sd", prompt.number, seed))
            )
            difference = found[prompt.number, seed].astype(int) - np.asarray(expected)
            assert np.abs(difference).max() <= 1  # a batch rounds otherwise
    assert len({picture.tobytes() for picture in found.values()}) == 4


class Counting:
    """A pipeline whose pictures are grey by the prompt's length; it notes what it is called with.

    With `together`, a batch's pictures depend on each other; with `alone`, it takes no batches.
    """

    device = torch.device("cpu")

    def __init__(self, together: bool = False, alone: bool = False) -> None:
        self.together, self.alone = together, alone
        self.calls: list[list[str]] = []

    def __call__(
        self, prompt: str | list[str], generator: torch.Generator | list[torch.Generator]
    ) -> SimpleNamespace:
        prompts = [prompt] if isinstance(prompt, str) else prompt
        if isinstance(generator, list):
            assert [each.initial_seed() for each in generator] == [7] * len(prompts)
            if self.alone:
                raise TypeError("takes no lists")
        self.calls.append(prompts)
        shift = 100 * len(prompts) if self.together else 0
        greys = [(20 * len(each) + shift) % 256 for each in prompts]
        return SimpleNamespace(images=[Image.new("RGB", (4, 4), (grey,) * 3) for grey in greys])


@pytest.mark.parametrize("how", [{}, {"together": True}, {"alone": True}])
def test_prompts_are_sampled_in_batches_where_the_pictures_stay_the_same(how) -> None:
    prompts = ["a" * n for n in range(1, 11)]
    pipeline = Counting(**how)
    model = DiffusersModel(pipeline, "digest")
    images = list(model.text_to_image(prompts, seed=7))
    alone = Counting(**how)
    expected = [alone(p, torch.Generator().manual_seed(7)).images[0] for p in prompts]
    assert [image.tobytes() for image in images] == [image.tobytes() for image in expected]
    sizes = [len(call) for call in pipeline.calls]
    if how:
        assert sizes == [1, *([4] if "together" in how else []), *[1] * 9]
    else:
        assert sizes == [1, 4, 4, 2]  # one is made alone, to compare


def test_its_defaults_are_noted_and_on_the_page(saved: Path, made: SuiteFolder) -> None:
    noted = json.loads((made.path / "sd" / "model.json").read_text())
    assert noted["pipeline"] == "StableDiffusionPipeline"
    assert noted["scheduler"] == "PNDMScheduler"
    assert noted["options"]["guidance_scale"] == 7.5
    assert noted["options"]["num_inference_steps"] == 2
    page = write_gallery(made, SEEDS).read_text()
    assert "StableDiffusionPipeline" in page
    assert "guidance_scale 7.5" in page
    model = DiffusersModel.load(saved)
    with pytest.raises(CorgiError, match="made with another options"):
        make_pictures(made, "sd", model, SEEDS, num_steps=3)
    scheduler = saved / "scheduler" / "scheduler_config.json"
    before = scheduler.read_text()
    scheduler.write_text(before.replace("0.012", "0.011"))
    assert DiffusersModel.load(saved).digest != model.digest
    scheduler.write_text(before)


def test_pickles_code_and_other_parts_are_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(CorgiError, match="whose parts are not exchanged"):
        ModelSource.of(f"sd={saved},prior=./k1").load(tmp_path)
    code = saved / "unet" / "mine.py"
    code.write_text("raise SystemExit('ran')")
    with pytest.raises(CorgiError, match=r"holds program code: unet/mine\.py"):
        DiffusersModel.load(saved)
    code.unlink()
    weights = saved / "unet" / "diffusion_pytorch_model.safetensors"
    pickled = weights.with_suffix(".bin")
    weights.rename(pickled)
    with pytest.raises(CorgiError, match="cannot be loaded"):
        DiffusersModel.load(saved)
    pickled.rename(weights)


def test_a_pipeline_that_needs_a_picture_is_refused(saved: Path) -> None:
    index = saved / "model_index.json"
    before = index.read_text()
    index.write_text(before.replace("StableDiffusionPipeline", "StableDiffusionInpaintPipeline"))
    try:
        with pytest.raises(CorgiError, match="needs more than a prompt"):
            DiffusersModel.load(saved)
    finally:
        index.write_text(before)
