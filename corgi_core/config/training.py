"""The settings of one training."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class TrainingSettings:
    """One optimiser run, for every model alike (AdamW, warm-up, then cosine decay)."""

    steps: int
    batch_size: int  # global, over all workers
    learning_rate: float
    warmup_steps: int = 50
    weight_decay: float = 0.06
    betas: tuple[float, float] = (0.9, 0.96)
    epsilon: float = 1e-6
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    precision: str = (
        "auto"  # "bf16" (autocast) where the hardware has instructions for it, or "fp32"
    )
    # How it is computed, like the number of workers: no part of a run's identity.
    accumulation: int = field(default=1, compare=False)  # pieces of a worker's batch, for memory
    compile: bool = field(default=False, compare=False)  # torch.compile: slow first, then faster
    checkpoint_every: int = 200
    evaluate_every: int = 200
    seed: int = 0
