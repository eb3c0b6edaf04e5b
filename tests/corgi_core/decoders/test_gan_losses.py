"""The losses' closed forms, and the augmentation that adapts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from corgi_core.decoders.gan.augment import NUMBERS, AdaptiveAugmentation, augmented
from corgi_core.decoders.gan.losses import (
    PATH_DECAY,
    PathLength,
    discriminator_loss,
    generator_loss,
    layout_loss,
    r1_penalty,
)


def test_the_adversarial_losses_are_logarithms_of_probabilities() -> None:
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 3.0])
    log = torch.log
    expected = -log(torch.sigmoid(real)).mean() - log(1 - torch.sigmoid(fake)).mean()
    torch.testing.assert_close(discriminator_loss(real, fake), expected)
    torch.testing.assert_close(generator_loss(fake), -log(torch.sigmoid(fake)).mean())
    assert discriminator_loss(torch.zeros(3), torch.zeros(3)) == pytest.approx(2 * math.log(2))


def test_the_layout_is_compared_at_sixteen_pixels() -> None:
    torch.manual_seed(0)
    generated, real = torch.randn(2, 3, 64, 64), torch.randn(2, 3, 64, 64)
    squares = (generated - real).unflatten(2, (16, 4)).unflatten(4, (16, 4)).mean(dim=(3, 5))
    torch.testing.assert_close(layout_loss(generated, real), squares.square().mean())
    board = torch.ones(1, 3, 32, 32)
    board[:, :, ::2, ::2] = board[:, :, 1::2, 1::2] = -1  # details that sixteen pixels do not show
    assert layout_loss(board, torch.zeros_like(board)) == 0
    small = torch.randn(2, 3, 8, 8)  # has no sixteen
    torch.testing.assert_close(layout_loss(small, 0 * small), small.square().mean())


def test_r1_of_a_quadratic_discriminator_is_its_closed_form() -> None:
    """D(x) = xᵀQx/2 + bᵀx has the gradient Qx + b, and the penalty 2 E(Qx + b) in b."""
    torch.manual_seed(0)
    q = torch.randn(48, 48)
    q, b = q + q.T, torch.randn(48, requires_grad=True)
    x = torch.randn(5, 3, 4, 4, requires_grad=True)
    flat = x.flatten(1)
    penalty = r1_penalty(((flat @ q) * flat).sum(dim=1) / 2 + flat @ b, x)
    gradients = (flat @ q + b).detach()
    torch.testing.assert_close(penalty, gradients.square().sum(dim=1).mean())
    penalty.backward()
    torch.testing.assert_close(b.grad, 2 * gradients.mean(dim=0))


def test_path_lengths_are_those_of_the_explicit_jacobian() -> None:
    torch.manual_seed(0)
    frame = torch.randn(48, 6)

    def generate(w: Tensor) -> Tensor:
        return (w.tanh() @ frame.T).unflatten(-1, (3, 4, 4))

    w, noise = torch.randn(5, 6, requires_grad=True), torch.randn(5, 3, 4, 4)
    jacobian = torch.func.vmap(torch.func.jacrev(generate))(w).flatten(1, 3)
    lengths = torch.einsum("nij,ni->nj", jacobian, noise.flatten(1) / 4).norm(dim=1)
    penalty = PathLength()
    mean = PATH_DECAY * lengths.mean()
    torch.testing.assert_close(penalty(generate(w), w, noise), (lengths - mean).square().mean())
    torch.testing.assert_close(penalty.mean, mean.detach())
    again = penalty.eval()(generate(w), w, noise)
    torch.testing.assert_close(penalty.mean, mean.detach())  # it learns in training alone
    expected = torch.autograd.grad((lengths - mean.detach()).square().mean(), w)[0]
    torch.testing.assert_close(torch.autograd.grad(again, w)[0], expected, atol=1e-5, rtol=1e-4)


def test_p_grows_while_real_images_are_recognised_too_surely_and_stays_a_probability() -> None:
    augment = AdaptiveAugmentation(target=0.6, images=40)
    sure, unsure = torch.ones(10), torch.tensor([1.0, -1.0] * 5)
    expected = [0.25, 0.5, 0.75, 1.0, 1.0]
    for p in expected:
        augment.adapt(sure)
        assert augment.p == pytest.approx(p)
    for p in (0.75, 0.5, 0.25, 0.0, 0.0):
        augment.adapt(unsure)
        assert augment.p == pytest.approx(p)
    augment.adapt(torch.tensor([1.0] * 8 + [-1.0] * 2))  # a mean sign of 0.6: as it should be
    assert augment.p == 0
    assert "p" in augment.state_dict()


@pytest.fixture
def pictures() -> Tensor:
    torch.manual_seed(0)
    return torch.rand(64, 3, 16, 16) * 2 - 1


def test_with_a_probability_of_0_nothing_is_changed(pictures: Tensor) -> None:
    same = augmented(pictures, 0.0, torch.rand(64, NUMBERS))
    torch.testing.assert_close(same, pictures, atol=1e-5, rtol=0)


def test_changes_happen_as_often_as_p_says(pictures: Tensor) -> None:
    uniform = torch.rand(2000, NUMBERS)
    many = pictures[:1].expand(2000, -1, -1, -1)
    for p in (0.05, 0.3):
        changed = (augmented(many, p, uniform) - many).abs().amax(dim=(1, 2, 3)) > 1e-3
        unchanged = (1 - p) ** 6 * (1 - p / 2)  # six changes, and a mirror half the time
        assert changed.float().mean() == pytest.approx(1 - unchanged, abs=0.04)


def test_each_change_is_what_its_name_says(pictures: Tensor) -> None:
    def only(number: int, amount: float) -> Tensor:
        uniform = torch.ones(64, NUMBERS)  # no chance below p
        uniform[:, number], uniform[:, number + NUMBERS // 2] = 0.0, (amount + 1) / 2
        return augmented(pictures, 0.5, uniform)

    close = {"atol": 1e-4, "rtol": 0}
    torch.testing.assert_close(only(0, -1.0), pictures.flip(3), **close)
    torch.testing.assert_close(only(1, 1.0)[..., :-2], pictures[..., 2:], **close)
    torch.testing.assert_close(only(2, 1.0)[..., :-2, :], pictures[..., 2:, :], **close)
    small = only(3, 1.0) - only(3, 1.0).mean(dim=(2, 3), keepdim=True)
    assert small.square().mean() < pictures.square().mean()  # of noise, more is averaged
    torch.testing.assert_close(only(4, 1.0), pictures + 0.4, **close)
    torch.testing.assert_close(only(5, 1.0), pictures * 2**0.5, **close)
    grey = pictures.mean(dim=1, keepdim=True)
    torch.testing.assert_close(only(6, -1.0), (pictures + grey) / 2, **close)


def test_augmentation_is_differentiable(pictures: Tensor) -> None:
    few = pictures[:3, :, :6, :6].double().requires_grad_()
    uniform = torch.rand(3, NUMBERS, dtype=torch.double)
    assert torch.autograd.gradcheck(lambda x: augmented(x, 1.0, uniform), few)
