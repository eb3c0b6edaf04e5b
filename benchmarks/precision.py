"""Which precision pays on this machine: `python -m benchmarks.precision`.

Times a linear layer and a 3×3 convolution, forward and backward, in float32 and in bfloat16
autocast, interleaved; prints the median ratio, and what `precision="auto"` chooses here.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from corgi_core.training.precision import autocast

ROUNDS = 15


def seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    cases: dict[str, tuple[nn.Module, torch.Tensor]] = {
        "linear 1024 → 1024, 2048 rows": (nn.Linear(1024, 1024), torch.randn(2048, 1024)),
        "convolution 3×3, 64 channels, 32 px, 32 images": (
            nn.Conv2d(64, 64, 3, padding=1).to(memory_format=torch.channels_last),
            torch.randn(32, 64, 32, 32).to(memory_format=torch.channels_last),
        ),
    }
    with autocast("auto", "cpu"):
        chosen = "bf16" if torch.is_autocast_enabled("cpu") else "fp32"
    print(f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    print(f'precision="auto" is {chosen} here')
    for name, (layer, x) in cases.items():

        def train(bf16: bool, layer: nn.Module = layer, x: torch.Tensor = x) -> None:
            with autocast("bf16" if bf16 else "fp32", "cpu"):
                loss = layer(x).float().square().mean()
            loss.backward()

        train(True), train(False)
        pairs = [
            (seconds(lambda: train(False)), seconds(lambda: train(True))) for _ in range(ROUNDS)
        ]
        ratio = statistics.median(single / half for single, half in pairs)
        print(f"{name}: bfloat16 is {ratio:.2f} times as fast as float32")


if __name__ == "__main__":
    main()
