"""The contrastive term of a prior's loss: by its definition, who takes part, how it is added."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.special import logsumexp

from corgi_core.errors import CorgiError
from corgi_core.prior.contrast import contrastive_error
from corgi_core.training.loop import train
from corgi_core.training.randomness import StepRandom
from tests.helpers.losses import loss_of
from tests.helpers.processes import run_each
from tests.helpers.tiny_prior import SETTINGS, TRAINING, made_prior

DIMS = (4, 8)


def made(captions: int, samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions [b, M, d] and images [b, d]."""
    random = torch.Generator().manual_seed(0)
    predicted = torch.randn(captions, samples, sum(DIMS), generator=random)
    return predicted, torch.randn(captions, sum(DIMS), generator=random)


def defined(predicted: np.ndarray, images: np.ndarray) -> float:
    """InfoNCE of predictions [n, d] and images [n, d], at a temperature of 0.07."""
    cosines = [
        x @ y.T / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(y, axis=1)
        for x, y in zip(np.split(predicted, [4], 1), np.split(images, [4], 1), strict=True)
    ]
    logits = sum(cosines) / 2 / 0.07
    return float(np.mean([logsumexp(logits, axis=axis) - np.diag(logits) for axis in (0, 1)]))


def test_each_noise_sample_has_the_term_of_the_definition_without_dropped_captions() -> None:
    predicted, images = made(7, 3)
    cond_mask = torch.tensor([True, False, True, True, True, False, True])
    found = contrastive_error(predicted, images, cond_mask, DIMS)
    present = predicted[cond_mask].numpy(), images[cond_mask].numpy()
    expected = [defined(present[0][:, sample], present[1]) for sample in range(3)]
    assert float(found) == pytest.approx(np.mean(expected), rel=1e-5)


def test_a_batch_of_dropped_captions_has_no_term_and_a_gradient_of_zero() -> None:
    predicted, images = made(3, 2)
    predicted.requires_grad_()
    found = contrastive_error(predicted, images, torch.zeros(3, dtype=torch.bool), DIMS)
    found.backward()
    assert (found.item(), predicted.grad.abs().max().item()) == (0, 0)


def test_its_weight_adds_it_to_equation_4(tmp_path: Path) -> None:
    plain = made_prior(tmp_path)
    weighted = replace(plain, settings=replace(SETTINGS, contrast=0.3))
    torch.manual_seed(0)
    network, rows = plain.build().eval(), torch.arange(8)
    alone, both = (loss_of(task, network, rows, StepRandom(0, 0, 8)) for task in (plain, weighted))
    assert alone.keys() == {"loss"}
    assert float(both["loss"] - alone["loss"]) == pytest.approx(0.3 * float(both["contrast"]))
    assert float(both["contrast"]) > 0.1


def test_microbatches_are_refused_only_with_the_term(tmp_path: Path) -> None:
    plain = made_prior(tmp_path)
    halves = replace(TRAINING, steps=1, accumulation=2)
    with pytest.raises(CorgiError, match="compares the samples of a batch"):
        train(replace(plain, settings=replace(SETTINGS, contrast=0.3)), halves, tmp_path / "run")
    train(plain, halves, tmp_path / "plain")


def _gradient(rank: int, world: int) -> torch.Tensor:
    predicted, images = (each.chunk(world)[rank] for each in made(6, 2))
    predicted = predicted.clone().requires_grad_()
    cond_mask = torch.tensor([True, True, False, True, True, True]).chunk(world)[rank]
    contrastive_error(predicted, images, cond_mask, DIMS).backward()
    assert predicted.grad is not None
    return predicted.grad


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    save_file({"gradient": _gradient(rank, 2)}, f"{folder}/{rank}.safetensors")
    torch.distributed.destroy_process_group()


@pytest.mark.integration  # starts processes
def test_two_workers_have_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    """Summed over the two, as their averaged gradient is of their averaged losses."""
    run_each(_worker, str(tmp_path))
    parts = [load_file(tmp_path / f"{rank}.safetensors")["gradient"] for rank in (0, 1)]
    torch.testing.assert_close(torch.cat(parts) / 2, _gradient(0, 1))
