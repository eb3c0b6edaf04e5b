"""Generator and discriminator learn in one backward pass, each from its own loss alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from corgi_core.decoders.gan.augment import NUMBERS, augmented
from corgi_core.decoders.gan.discriminator import GROUP, with_std
from corgi_core.decoders.gan.generator import GanShape
from corgi_core.decoders.gan.losses import discriminator_loss, generator_loss
from corgi_core.decoders.gan.network import GanNetwork

SHAPE = GanShape(embedding_width=8, image_size=16, latent_width=8, channel_base=64, max_channels=8)
P = 0.5


@pytest.fixture
def network() -> GanNetwork:
    torch.manual_seed(0)
    network = GanNetwork(SHAPE, augment_target=0.6, augment_images=100)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):  # what starts at zero would prove nothing
            nn.init.normal_(parameter, std=0.3)
    network.generator.whitening.fit(torch.randn(20, 8) @ torch.randn(8, 8))
    network.augment.p.fill_(P)
    return network


@pytest.fixture
def inputs() -> dict[str, Tensor | bool]:
    torch.manual_seed(1)
    n = 2 * GROUP
    return {
        "images": torch.rand(n, 3, 16, 16) * 2 - 1, "z": torch.randn(n, 8),
        "latent": torch.randn(n, SHAPE.latent_width), "uniform": torch.rand(n, 3, NUMBERS),
        "path_noise": torch.randn(n, 3, 16, 16), "with_r1": True,
    }  # fmt: skip


def gradients(loss: Tensor, part: nn.Module) -> list[Tensor | None]:
    return list(
        torch.autograd.grad(loss, list(part.parameters()), retain_graph=True, allow_unused=True)
    )


def same_gradients(ours: Tensor, separate: Tensor, part: nn.Module) -> None:
    for a, b in zip(gradients(ours, part), gradients(separate, part), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def test_each_part_learns_from_its_own_loss_alone(
    network: GanNetwork, inputs: dict[str, Tensor]
) -> None:
    step = network(**inputs)
    generator = (
        generator_loss(step.feedback.score) + step.feedback.semantic.square().mean() + step.path
    )
    discriminator = discriminator_loss(step.real.score, step.fake.score) + step.r1
    discriminator = discriminator + step.real.semantic.square().mean()
    assert gradients(generator, network.discriminator) == [None] * len(
        list(network.discriminator.parameters())
    )
    assert gradients(discriminator, network.generator) == [None] * len(
        list(network.generator.parameters())
    )
    for loss, part in ((generator, network.generator), (discriminator, network.discriminator)):
        for (name, _), gradient in zip(part.named_parameters(), gradients(loss, part), strict=True):
            assert gradient is not None, name
            assert gradient.abs().max() > 0, name


def test_both_losses_are_those_of_two_separate_steps(
    network: GanNetwork, inputs: dict[str, Tensor]
) -> None:
    step = network(**inputs)
    z, uniform = inputs["z"], inputs["uniform"]
    generated, white = network.generator(z, inputs["latent"]), network.generator.whitening(z)
    output = network.discriminator(augmented(generated, P, uniform[:, 0]), white)
    for ours, separate in zip(step.feedback, output, strict=True):
        same_gradients(ours.square().mean(), separate.square().mean(), network.generator)
    real = augmented(inputs["images"], P, uniform[:, 1]).requires_grad_()
    scores = network.discriminator(real, white).score
    fake = network.discriminator(augmented(generated.detach(), P, uniform[:, 2]), white).score
    (slope,) = torch.autograd.grad(scores.sum(), real, create_graph=True)
    r1 = slope.square().sum() / len(z)
    torch.testing.assert_close(step.r1, r1, atol=1e-5, rtol=1e-4)
    ours = discriminator_loss(step.real.score, step.fake.score) + step.r1
    separate = discriminator_loss(scores, fake) + r1
    same_gradients(ours, separate, network.discriminator)


def test_penalties_are_taken_when_asked_for(
    network: GanNetwork, inputs: dict[str, Tensor | bool]
) -> None:
    step = network(**inputs | {"with_r1": False, "path_noise": None})
    assert step.r1 == step.path == 0
    assert network.path_length.mean == 0
    assert step.p == P
    assert (network.augment.p - P).abs() == pytest.approx(0.08)  # eight pictures of a hundred


def test_a_network_that_is_not_trained_adapts_nothing(
    network: GanNetwork, inputs: dict[str, Tensor]
) -> None:
    network.eval()(**inputs)
    assert network.augment.p == P
    assert network.path_length.mean == 0


def test_a_picture_depends_on_its_embedding_and_on_all_of_its_latent(
    network: GanNetwork, inputs: dict[str, Tensor]
) -> None:
    z, latent = inputs["z"], inputs["latent"].requires_grad_()
    pictures = network.generator(z, latent)
    assert pictures.shape == (2 * GROUP, 3, 16, 16)
    (gradient,) = torch.autograd.grad(pictures[0].square().sum(), latent)
    assert (gradient[0] != 0).all()
    assert not gradient[1:].any()
    assert (network.generator(z.roll(1, 0), latent) - pictures).abs().max() > 0.01
    torch.testing.assert_close(network.generator(z[:1], latent[:1]), pictures[:1])


def test_the_last_channel_is_the_deviation_within_successive_pictures() -> None:
    torch.manual_seed(0)
    x = torch.randn(3 * GROUP, 5, 4, 4)
    y = with_std(x)
    torch.testing.assert_close(y[:, :5], x)
    for first in range(0, len(x), GROUP):
        deviation = x[first : first + GROUP].numpy().std(axis=0).mean()
        torch.testing.assert_close(
            y[first : first + GROUP, 5], torch.full((GROUP, 4, 4), float(deviation)), atol=1e-5,
            rtol=0,
        )  # fmt: skip


def test_a_discriminator_reads_the_embedding_and_compares_within_groups_only(
    network: GanNetwork, inputs: dict[str, Tensor]
) -> None:
    pictures, z = inputs["images"], inputs["z"]
    whole, part = (
        network.discriminator(pictures, z),
        network.discriminator(pictures[:GROUP], z[:GROUP]),
    )
    torch.testing.assert_close(whole.score[:GROUP], part.score)
    other = network.discriminator(pictures, z.roll(1, 0))
    assert (other.score - whole.score).abs().max() > 1e-3
    torch.testing.assert_close(other.semantic, whole.semantic)  # of the picture alone
