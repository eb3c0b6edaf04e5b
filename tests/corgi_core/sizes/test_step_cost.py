"""What a step costs: operations by hand, memory against torch's own allocator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from corgi_core.config import StageSettings
from corgi_core.decoders.cascade.unet import Stage
from corgi_core.prior.network import PriorNetwork, PriorShape
from corgi_core.sizes.step_cost import StepCost, step_cost

D, TEXT, TOKENS, K, WIDTH, LAYERS, HEADS = 48, 40, 11, 5, 32, 3, 4
CAPTIONS, SAMPLES = 6, 2
TOLERANCE = 0.1  # of the measured memory


def prior() -> PriorNetwork:
    return PriorNetwork(PriorShape(D, TEXT, TOKENS, K, WIDTH, LAYERS, HEADS))


def run_prior(network: nn.Module, captions: int = CAPTIONS, samples: int = SAMPLES) -> Tensor:
    output: Tensor = network(
        torch.zeros(captions, TOKENS, TEXT), torch.ones(captions, TOKENS, dtype=torch.bool),
        torch.zeros(captions, D), torch.ones(captions, dtype=torch.bool),
        torch.zeros(captions, samples, D), torch.zeros(captions, samples, dtype=torch.long),
        torch.zeros(captions, dtype=torch.long),
    )  # fmt: skip
    return output


def stage() -> Stage:
    settings = StageSettings(
        size=32, channels=(32, 64), layers=1, attention_levels=1, noise_shift=0.0
    )
    return Stage(settings, D, 8, 16, None, upsamples=True)


def run_stage(network: nn.Module, images: int = 4) -> Tensor:
    output: Tensor = network(
        torch.zeros(images, 6, 32, 32), torch.zeros(images, dtype=torch.long), torch.zeros(images),
        torch.zeros(images, D), torch.ones(images, dtype=torch.bool),
    )  # fmt: skip
    return output


def test_a_priors_parameters_are_the_formulas() -> None:
    block = 12 * WIDTH**2 + 13 * WIDTH
    count = 2 * TEXT + TEXT * WIDTH + WIDTH  # norm and projection of the text tokens
    count += 2 * (D * WIDTH + WIDTH)  # of the CLIP text embedding, and of the noisy embedding
    count += 2 * (WIDTH**2 + WIDTH)  # of the timestep
    count += (1 + TOKENS + 2 + K) * WIDTH  # null text, positions, Gaussians
    count += LAYERS * block + 2 * WIDTH + WIDTH * D + D  # blocks, norm, head
    cost = step_cost(prior, run_prior, "fp32")
    assert cost.parameters == cost.trained == count


def test_a_priors_operations_are_the_formulas() -> None:
    """Multiplications by hand: two operations each, and twice as many backward.

    Backward, a layer whose input is data needs the weight's gradient alone; attention computes its
    scores again, and makes five products instead of two.
    """
    prefix, noisy = CAPTIONS * (TOKENS + 2), CAPTIONS * SAMPLES
    linear = CAPTIONS * TOKENS * TEXT * WIDTH  # text tokens, behind a norm that learns
    linear += noisy * WIDTH * (WIDTH + D)  # second layer of the timestep; head
    linear += (LAYERS - 1) * prefix * 12 * WIDTH**2 + prefix * 2 * WIDTH**2
    linear += LAYERS * noisy * 12 * WIDTH**2
    of_data = CAPTIONS * D * WIDTH + noisy * (D + WIDTH) * WIDTH
    attention = (LAYERS - 1) * 2 * prefix * (TOKENS + 2) * WIDTH
    attention += LAYERS * 2 * noisy * (TOKENS + 2 + SAMPLES) * WIDTH
    forward = 2 * (linear + of_data + attention)
    backward = 2 * (2 * linear + of_data + attention * 5 // 2)
    assert step_cost(prior, run_prior, "fp32").flops == forward + backward


def test_a_convolutions_operations_are_the_formulas() -> None:
    def build() -> nn.Module:
        return nn.Conv2d(8, 12, 3, padding=1, bias=False)

    products = 5 * 10 * 10 * 8 * 12 * 9
    cost = step_cost(build, lambda network: network(torch.zeros(5, 8, 10, 10)), "fp32")
    assert cost.flops == 2 * products * 2  # forward, and the weight's gradient
    frozen = step_cost(
        lambda: build().requires_grad_(False),
        lambda network: network(torch.zeros(5, 8, 10, 10)), "fp32",
    )  # fmt: skip
    assert (frozen.flops, frozen.trained) == (2 * products, 0)


def measured_peak(network: nn.Module, run: Callable[[nn.Module], Tensor]) -> int:
    """Most bytes that torch's allocator held at once in the second microbatch of a step."""
    run(network).square().mean().backward()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run(network).square().mean().backward()
    alive = peak = 0
    events = profiler.profiler.kineto_results.events()
    for event in sorted(events, key=lambda each: each.start_ns()):
        if event.name() == "[memory]":
            alive += event.nbytes()
            peak = max(peak, alive)
    return peak


@pytest.mark.parametrize(
    ("build", "run"),
    [(prior, lambda network: run_prior(network, 64, 4)), (stage, run_stage)],
    ids=["prior", "stage"],
)
def test_memory_is_what_torch_allocates_in_a_real_step(
    build: Callable[[], nn.Module], run: Callable[[nn.Module], Tensor]
) -> None:
    peak = measured_peak(build(), run)
    found = step_cost(build, run, "fp32").activations
    assert abs(found - peak) < TOLERANCE * peak, (found, peak)


def test_autocast_has_products_in_bfloat16_and_norms_in_float32_as_on_a_gpu() -> None:
    types = {}

    def build() -> nn.Module:
        network = nn.Sequential(
            nn.Conv2d(8, 8, 3), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 8, 3)
        )
        for name, layer in network.named_children():
            layer.register_forward_hook(lambda _, __, x, name=name: types.update({name: x.dtype}))
        return network

    def run(network: nn.Module) -> Tensor:
        output: Tensor = network(torch.zeros(4, 8, 32, 32))
        return output

    single = step_cost(build, run, "fp32")
    assert set(types.values()) == {torch.float32}
    half = step_cost(build, run, "auto")
    assert list(types.values()) == [torch.bfloat16, torch.float32, torch.float32, torch.bfloat16]
    assert half.flops == single.flops
    assert half.activations < single.activations


def test_computing_activations_again_saves_memory_and_costs_a_forward_pass() -> None:
    shape = replace(prior().shape, layers=8)

    def cost_of(again: bool) -> StepCost:
        return step_cost(
            lambda: PriorNetwork(shape, again), lambda network: run_prior(network, 64), "fp32"
        )

    whole, less = cost_of(again=False), cost_of(again=True)
    assert less.activations < 0.7 * whole.activations
    assert whole.flops < less.flops < 1.5 * whole.flops
