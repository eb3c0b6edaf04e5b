"""How long a training takes on GPUs of a stated rate, and how many samples a second they read."""

from __future__ import annotations

from dataclasses import dataclass

from corgi_core.sizes.model_size import ModelSize

GPU_RATE = 400e12  # FLOP/s: an H100's bfloat16 rate, 989e12 without sparsity, at 40 % utilisation
DAY = 86_400  # seconds


@dataclass(frozen=True)
class TimeNeeded:
    """What one model asks of GPUs that compute at a given rate.

    Attributes:
        samples_per_second: That all GPUs together compute, and that the data must deliver.
        days: Of one training; 0 for what is not trained.
    """

    samples_per_second: float
    days: float


def time_needed(size: ModelSize, gpu_rate: float = GPU_RATE) -> TimeNeeded:
    """The time of a model whose size is known.

    Args:
        size: Of `model_sizes`.
        gpu_rate: FLOP/s that a GPU really does, not the number of its data sheet.
    """
    step = size.flops / (gpu_rate * size.gpus)  # seconds
    return TimeNeeded(size.samples / step, size.steps * step / DAY)
