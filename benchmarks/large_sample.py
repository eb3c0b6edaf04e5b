"""An image of 1024 pixels on a small machine: `python -m benchmarks.large_sample`.

A cascade of the paper's sizes, 64 → 256 → 1024, with weights of a realistic number, untrained: time
and memory do not depend on their values. An upper stage is denoised in tiles where an image would
take more memory than it may. Prints parameters, seconds and the peak of the process's memory.
"""

from __future__ import annotations

import resource
import time
from dataclasses import replace
from typing import Annotated

import torch
import typer

from corgi_core.config import CascadeSettings, StageSettings, TrainingSettings
from corgi_core.decoders.cascade.checks import check_cascade
from corgi_core.decoders.cascade.decoder import CascadeDecoder
from corgi_core.decoders.cascade.memory import GB, image_memory
from corgi_core.decoders.cascade.network import CascadeNetwork, CascadeShape

WIDTH = 1536  # d, of the paper's three encoders
GOAL = 8.0  # GB
LARGE = CascadeSettings(
    image_size=1024,
    stages=(
        StageSettings(
            size=64, channels=(192, 384, 576, 768), layers=2, attention_levels=3, noise_shift=0.0,
        ),
        StageSettings(
            size=256, channels=(128, 256, 384, 512), layers=1, attention_levels=1, noise_shift=-1.0,
        ),
        StageSettings(
            size=1024, channels=(64, 128, 256, 512), layers=2, attention_levels=0, noise_shift=-2.0,
        ),
    ),
    vectors=8, vector_width=768, prediction="v", condition_noise=0.5, sampling_noise=0.1,
    perturbed=0.5, min_cosine=0.7, cond_dropout=0.1, guidance=1.0, num_steps=2,
    training=TrainingSettings(steps=1, batch_size=1, learning_rate=1e-4),
)  # fmt: skip


def main(
    steps: Annotated[int, typer.Option(help="Of every stage.")] = 2,
    memory: Annotated[
        float | None, typer.Option(help="GB that an image may take; default: what is free.")
    ] = None,
    threads: Annotated[int, typer.Option(help="Of the CPU.")] = 2,
) -> None:
    """Sample one image, and print time and memory."""
    torch.set_num_threads(threads)
    check_cascade(LARGE)
    torch.manual_seed(0)
    network = CascadeNetwork(CascadeShape.of(LARGE, WIDTH)).eval()
    settings = replace(LARGE, sampling_memory=memory)
    decoder = CascadeDecoder(network, settings, {"encoder_dims": [512] * 3}, card={})
    for sizes, stage in zip(LARGE.stages, network.stages, strict=True):
        millions, needed = sum(p.numel() for p in stage.parameters()) / 1e6, image_memory(sizes)
        print(f"{sizes.size:>5} px: {millions:.0f} M parameters, {needed / GB:.1f} GB an image")
    began = time.perf_counter()
    image = decoder.decode(torch.randn(1, WIDTH), num_steps=steps)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    assert image.shape == (1, 3, 1024, 1024)
    assert image.isfinite().all()
    print(f"{steps} steps a stage, {threads} threads: {seconds:.0f} s")
    print(f"peak memory {peak:.2f} GB, {'under' if peak < GOAL else 'OVER'} {GOAL:g} GB")


if __name__ == "__main__":
    typer.run(main)
