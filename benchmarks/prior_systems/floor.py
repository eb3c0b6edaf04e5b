"""The floor: how fast the task could be on this machine, if all else were free.

The task needs multiply-adds and reads weights. Both are counted from the shapes, for the
algorithm that needs least of all that we know: each position once, the text's and hidden text's
keys and values once per caption, and nothing more of the text's last block. Attention counts as the
rectangles that matrix products compute. The machine's rates are measured in the same run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.prior_systems.system import Case

AFTER_TEXT = 2  # positions of the prefix: the CLIP text embedding, the Gaussian
MATRIX, REPEATS = 2048, 5


@dataclass(frozen=True)
class Machine:
    """Rates of this machine with the benchmark's threads, in the case's precision."""

    flops: float  # per second, a large matrix product: two for each multiply-add
    bytes: float  # per second, read by matrix–vector products over as many weights as a step's


def prefix_multiply_adds(case: Case, tokens: int) -> int:
    """Of one caption's keys and values: its text tokens, its embedding, its Gaussian."""
    w, positions = case.width, tokens + AFTER_TEXT
    embedding = tokens * case.text_width * w + case.dim * w
    block = positions * 12 * w * w + 2 * positions * positions * w
    last = positions * 2 * w * w  # its keys and values are all that is wanted
    return embedding + (case.layers - 1) * block + last


def noise_sample_multiply_adds(case: Case, tokens: int, noise_samples: int) -> int:
    """Of one of so many noise samples beside each other, its timestep's embedding included."""
    w, visible = case.width, tokens + AFTER_TEXT + noise_samples
    embedding = 2 * w * w + case.dim * w
    return embedding + case.layers * (12 * w * w + 2 * visible * w) + w * case.dim


def sampling_multiply_adds(case: Case) -> tuple[int, int]:
    """Before the steps, and in one step of all captions, both branches of the guidance."""
    before = case.batch * prefix_multiply_adds(case, case.text_tokens)
    before += prefix_multiply_adds(case, 0)  # the hidden caption
    timestep = 2 * case.width**2  # once for all captions and branches
    before += case.steps * timestep
    step = sum(noise_sample_multiply_adds(case, tokens, 1) for tokens in (case.text_tokens, 0))
    noisy = case.dim * case.width  # once for both branches
    return before, case.batch * (step - 2 * timestep - noisy)


def training_multiply_adds(case: Case) -> int:
    """Forward and backward of one step. A product's backward pass is two, less the gradient with
    respect to what is no parameter's doing: text embedding, noisy embedding, timestep."""
    w = case.width
    prefix = prefix_multiply_adds(case, case.text_tokens)
    sample = noise_sample_multiply_adds(case, case.text_tokens, case.noise_samples)
    given = case.dim * w + case.noise_samples * (case.dim * w + w * w)
    return case.batch * (3 * (prefix + case.noise_samples * sample) - given)


def weights(case: Case) -> int:
    """Parameters in matrices, as many as a pass over all positions reads."""
    w = case.width
    embedding = case.text_width * w + 2 * case.dim * w + 2 * w * w
    return embedding + case.layers * 12 * w * w + w * case.dim


def floor_seconds(case: Case, machine: Machine) -> float:
    """Of one sampling or training step. In each phase, whichever takes longer: arithmetic or
    reading the weights; in training AdamW reads four and writes three numbers a parameter too."""

    def phase(multiply_adds: int, parameters: int) -> float:
        width = 2 if case.precision == "bf16" else 4
        return max(2 * multiply_adds / machine.flops, width * parameters / machine.bytes)

    if case.task == "training":
        update = 7 * 4 * weights(case) / machine.bytes
        return phase(training_multiply_adds(case), 3 * weights(case)) + update
    before, step = sampling_multiply_adds(case)
    return phase(before, weights(case)) + case.steps * phase(step, weights(case))


def measured_machine(case: Case) -> dict[str, float]:
    """The rates of `Machine`, each the best of several tries: a floor is not an average."""
    import torch

    kind = torch.bfloat16 if case.precision == "bf16" else torch.float32
    options = {"dtype": kind, "device": case.device}
    wait = torch.cuda.synchronize if case.device.startswith("cuda") else lambda: None

    def best(work: Callable[[], object]) -> float:
        seconds = []
        for _ in range(REPEATS + 1):
            wait()
            began = time.perf_counter()
            work()
            wait()
            seconds.append(time.perf_counter() - began)
        return min(seconds)

    square = torch.randn(MATRIX, MATRIX, **options)
    rows = torch.randn(weights(case) // case.width, case.width, **options)
    vector = torch.randn(case.width, **options)
    return {
        "flops": 2 * MATRIX**3 / best(lambda: square @ square),
        "bytes": rows.nbytes / min(best(lambda: rows @ vector), best(lambda: rows.sum())),
    }
