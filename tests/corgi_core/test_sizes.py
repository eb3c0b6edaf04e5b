"""Sizes on the meta device are those of the real models."""

from __future__ import annotations

from corgi_core.config import clusters_of, load_preset, preset_named
from corgi_core.config.loading import assigned
from corgi_core.prior.network import PriorNetwork, PriorShape
from corgi_core.sizes import model_sizes


def parameters(model) -> int:
    return sum(each.numel() for each in model.parameters())


def test_the_priors_size_is_that_of_a_prior_with_weights() -> None:
    preset = preset_named("emoji-small")
    prior, k = preset.prior, max(clusters_of(each) or 1 for each in preset.variants)
    shape = PriorShape(64, 384, 24, k, prior.width, prior.layers, prior.heads)
    sizes = {size.model: size for size in model_sizes(preset)}
    found = sizes["prior"]
    assert found.parameters == found.trained == parameters(PriorNetwork(shape))
    assert found.weights == 4 * found.parameters
    assert found.training == 20 * found.parameters
    assert sizes["text encoder minilm"].parameters == 22_713_216
    assert sizes["text encoder minilm"].training is None


def test_what_is_not_known_is_said() -> None:
    sizes = {size.model: size for size in model_sizes(preset_named("embeddings"))}
    assert sizes["prior"].parameters is None
    assert "not known" in sizes["prior"].remark
    layers = [
        assigned("clip=hf-hub:some/model"), assigned("encoders.text=some/t5"),
        assigned("decoders.stable_diffusion.pretrained=some/pipeline"),
    ]  # fmt: skip
    sizes = {size.model: size for size in model_sizes(load_preset("emoji-small", layers).preset)}
    assert all(size.parameters is None for size in sizes.values())
