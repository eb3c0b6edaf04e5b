"""Sizes of a preset's models are those of the real models, and of what is published."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from corgi_core.config import Preset, clusters_of, load_preset, preset_named
from corgi_core.config.loading import assigned
from corgi_core.prior.network import PriorNetwork, PriorShape
from corgi_core.sizes import ModelSize, model_sizes
from corgi_core.sizes.captions_like_coco import padded_tokens
from corgi_core.sizes.models import microbatch_of, models_of
from corgi_core.sizes.step_cost import step_cost


def preset_of(name: str, *assignments: str) -> Preset:
    return load_preset(name, [assigned(each) for each in assignments]).preset


def sizes_of(preset: Preset) -> dict[str, ModelSize]:
    return {size.model: size for size in model_sizes(preset)}


def parameters(model) -> int:
    return sum(each.numel() for each in model.parameters())


def test_the_priors_size_is_that_of_a_prior_with_weights() -> None:
    preset = preset_of(
        "emoji-small", "decoders={gan: null, lafite: null, cascade: null}",
        "workers=2", "ray.training_gpus=0.5",
    )  # fmt: skip
    prior, k = preset.prior, max(clusters_of(each) or 1 for each in preset.variants)
    shape = PriorShape(64, 384, 24, k, prior.width, prior.layers, prior.heads)
    sizes = sizes_of(preset)
    found = sizes["prior"]
    assert found.parameters == found.trained == parameters(PriorNetwork(shape))
    assert found.weights == 4 * found.parameters
    assert (found.workers, found.gpus, found.microbatch) == (2, 1, 16)
    # gradient, two moments, average; and the gradient once more, while workers average it
    assert found.state == 20 * found.parameters
    assert replace(found, workers=1).state == 16 * found.parameters
    assert found.memory == found.weights + found.state + found.activations
    assert sizes["text encoder minilm"].parameters == 22_713_216
    assert sizes["text encoder minilm"].state == 0


def test_a_text_encoder_that_reads_in_the_priors_training_is_a_line_of_its_own() -> None:
    preset = preset_of("emoji-small", "text_features=online", "prior.training.batch_size=8")
    models = {model.name: model for model in models_of(preset)}
    cached = {model.name for model in models_of(replace(preset, text_features="cached"))}
    assert models.keys() - cached == {"prior's text encoder"}
    prior, reader = models["prior"], models["prior's text encoder"]
    assert (reader.beside, reader.trainings) == ("prior", prior.trainings)
    assert "text_features: online" in reader.remark
    found, alone = (
        step_cost(each.build, partial(each.run, captions=2), "bf16")
        for each in (reader, models["text encoder minilm"])
    )
    assert (found.parameters, found.trained) == (alone.parameters, 0)
    # products in bfloat16; the vectors of 30,522 words, and norms, stay in float32
    assert 0.5 * alone.weights < found.weights < alone.weights == 4 * alone.parameters
    length = padded_tokens(microbatch_of(preset.prior.training, max(1, preset.workers)))
    assert length < preset.encoders.text_tokens  # of the encoder's own line
    ratio = length / preset.encoders.text_tokens
    assert found.flops == pytest.approx(alone.flops * ratio, rel=0.05)


def test_longer_batches_have_longer_captions() -> None:
    assert [padded_tokens(count) for count in (1, 8, 64, 256, 4096)] == [14, 21, 26, 30, 30]


def test_what_is_not_known_is_said() -> None:
    found = sizes_of(preset_named("embeddings"))
    assert found["prior"].parameters is None
    assert "not known" in found["prior"].remark
    assert all(size.parameters is None for size in found.values() if "minilm" not in size.model)
    preset = preset_of(
        "emoji-small", "clip=hf-hub:some/model", "encoders.text=some/t5",
        "decoders.stable_diffusion.pretrained=some/pipeline",
    )  # fmt: skip
    assert all(size.parameters is None for size in sizes_of(preset).values())


@pytest.mark.parametrize(
    ("name", "known"),
    [
        (
            "coco",
            {
                # Radford et al. 2021, as open_clip's table of models has them
                "CLIP ViT-B-16/openai": 149_620_737, "CLIP ViT-B-32/openai": 151_277_313,
                "CLIP RN101/openai": 119_688_033,
                "text encoder google-t5/t5-base": 109_628_544,
            },
        ),
        (
            "paper",
            {
                # Stable Diffusion 2's UNet of 865,910,724 and the projection of 1,536 to 4 · 1,024
                "decoder stable_diffusion": 872_208_324 + 83_653_863,
            },
        ),
    ],
)  # fmt: skip
def test_the_models_of_the_large_presets_have_their_published_sizes(
    name: str, known: dict[str, int]
) -> None:
    models = {model.name: model for model in models_of(preset_named(name))}
    for title, count in known.items():
        build = models[title].build
        assert build is not None
        with torch.device("meta"):
            assert parameters(build()) == count, title


def test_a_workers_microbatch_is_its_share_of_the_batch() -> None:
    training = replace(preset_named("emoji").prior.training, batch_size=128, accumulation=4)
    assert microbatch_of(training, workers=1) == 32
    assert microbatch_of(training, workers=8) == 4
    assert microbatch_of(training, workers=1000) == 1


def test_a_stage_on_crops_of_half_the_side_does_a_quarter_of_the_work() -> None:
    preset = preset_named("emoji-small")
    first, second = preset.cascade.stages
    cascade = replace(preset.cascade, stages=(first, replace(second, crop=16)))
    whole, part = (
        step_cost(model.build, partial(model.run, images=2), "fp32")
        for each in (preset, replace(preset, decoders=(cascade,)))
        for model in models_of(each)
        if model.stage == 1
    )
    assert part.flops == pytest.approx(whole.flops / 4, rel=0.02)
    assert part.parameters == whole.parameters
