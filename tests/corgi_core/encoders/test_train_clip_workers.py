"""The contrastive loss needs the global batch: two workers learn what one would."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.parallel import DistributedDataParallel

from corgi_core.config import EncoderSettings
from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Dataset
from corgi_core.encoders.train_clip import ClipTask
from corgi_core.training.randomness import StepRandom
from tests.helpers.losses import loss_of
from tests.helpers.processes import run_each

pytestmark = pytest.mark.integration  # trains, or starts processes, for seconds

BATCH = 8


def _gradients(task: ClipTask, folder: Path, rank: int, world: int) -> dict[str, torch.Tensor]:
    """Of one global batch; in eval mode, since batch statistics are a worker's own."""
    task.prepare_data(folder)
    torch.manual_seed(0)
    model = task.build().eval()
    network = model if world == 1 else DistributedDataParallel(model)
    local = BATCH // world
    rows = torch.arange(rank * local, (rank + 1) * local)
    loss_of(task, network, rows, StepRandom(0, 0, BATCH, rank, world))["loss"].backward()
    return {name: p.grad.contiguous() for name, p in model.named_parameters() if p.grad is not None}


def _worker(rank: int, task: ClipTask, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    gradients = _gradients(task, Path(folder), rank, 2)
    if rank == 0:
        save_file(gradients, f"{folder}/gradients.safetensors")
    torch.distributed.destroy_process_group()


def test_two_workers_have_the_gradient_of_the_whole_batch(
    small: EncoderSettings, squares: Dataset, square_pixels: ArrayStore, tmp_path: Path
) -> None:
    task = ClipTask(small, squares, square_pixels)
    task.prepare_data(tmp_path)  # the workers read what is there
    run_each(_worker, task, str(tmp_path))
    together = load_file(tmp_path / "gradients.safetensors")
    alone = _gradients(task, tmp_path, 0, 1)
    assert together.keys() == alone.keys()
    assert any(gradient.abs().max() > 1e-4 for gradient in alone.values())
    for name, gradient in alone.items():
        torch.testing.assert_close(together[name], gradient, atol=1e-6, rtol=1e-4, msg=name)
