"""The child's side: a system in a process of its own, which does what stdin says and answers.

A line of JSON comes, {"do": …}, and one goes:

    prepare {case}    build the case, run it once to warm up     {"seconds"} of that run
    measure           sample, or take a training step, once      {"seconds", "items"}
    learn {seconds}   go on training for so long                 {"steps", "used"} so far
    evaluate          the held-out loss                          {"loss", "error"}
    machine           the rates that floors are computed from    {"flops", "bytes"} per second

Only one child is asked at a time, and one that waits does not compute.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from benchmarks.prior_systems.captions import captions_of
from benchmarks.prior_systems.floor import measured_machine
from benchmarks.prior_systems.system import Case, System
from corgi_core.config import TrainingSettings
from corgi_core.diffusion.schedule import TIMESTEPS, Schedule
from corgi_core.training.adamw import AdamW
from corgi_core.training.precision import autocast

WARM_UP = 0.05  # of the training time, in which the learning rate rises
AT_ONCE = 64  # held-out captions in one forward pass


class Work:
    """A case in progress: the system, its optimiser and its captions."""

    def __init__(self, build: Callable[[Case], System], case: Case) -> None:
        torch.manual_seed(0)
        self.case = case
        self.system = build(case)
        settings = TrainingSettings(
            steps=1, batch_size=case.batch, learning_rate=case.learning_rate
        )
        self._clip_norm = settings.clip_norm
        self._optimizer = AdamW(self.system.network, settings)
        self._captions = captions_of(case)
        self._batch = self._captions.training(0)
        self.steps, self.used = 0, 0.0

    def measure(self) -> dict[str, Any]:
        """Captions sampled, or noise samples trained on, and the seconds that they took."""
        sampling = self.case.task == "sampling"
        self.system.network.train(not sampling)
        seconds = self._timed(self._sample if sampling else self._step)
        return {
            "seconds": seconds,
            "items": self.case.batch * (1 if sampling else self.system.noise_samples),
        }

    def learn(self, seconds: float) -> dict[str, Any]:
        """Warm-up, then cosine decay to 0, over the case's seconds of training."""
        self.system.network.train()
        until = min(self.used + seconds, self.case.seconds)
        while self.used < until:
            self._batch = self._captions.training(self.steps + 1)
            self.used += self._timed(self._step)
            self.steps += 1
        return {"steps": self.steps, "used": self.used}

    @torch.no_grad()
    def evaluate(self) -> dict[str, Any]:
        """Mean ‖z_0 − ẑ_0‖²/d over held-out captions, and its standard error.

        Each caption has one timestep, together they are uniform over 0 … T−1.
        """
        self.system.network.eval()
        captions, schedule = self._captions.held_out(), Schedule.linear()
        random = torch.Generator().manual_seed(1)
        n = len(captions.image)
        t = ((torch.arange(n) + torch.rand(n, generator=random)) * (TIMESTEPS / n)).long()
        noise = torch.randn(captions.image.shape, generator=random)
        t, noise = t.to(self.case.device), noise.to(self.case.device)
        z_t = schedule.add_noise(captions.image, noise, t)
        errors = []
        for first in range(0, n, AT_ONCE):
            rows = slice(first, first + AT_ONCE)
            some = type(captions)(*(x[rows] for x in captions))
            with autocast(self.case.precision, self.case.device):
                predicted = self.system.predict(some, z_t[rows], t[rows])
            errors.append((some.image - predicted.float()).square().mean(dim=1))
        errors_of_all = torch.cat(errors)
        return {"loss": errors_of_all.mean().item(), "error": errors_of_all.std().item() / n**0.5}

    def _sample(self) -> None:
        with torch.inference_mode(), autocast(self.case.precision, self.case.device):
            self.system.sample(self._batch)

    def _step(self) -> None:
        with autocast(self.case.precision, self.case.device):
            loss = self.system.loss(self._batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.system.network.parameters(), self._clip_norm)
        self._optimizer.step(self._rate())
        self._optimizer.zero_grad()

    def _rate(self) -> float:
        part = min(1.0, self.used / self.case.seconds)
        rising = min(1.0, (part + 1e-3) / WARM_UP)
        return self.case.learning_rate * rising * 0.5 * (1 + math.cos(math.pi * part))

    def _timed(self, work: Callable[[], None]) -> float:
        wait = torch.cuda.synchronize if self.case.device.startswith("cuda") else lambda: None
        wait()
        began = time.perf_counter()
        work()
        wait()
        return time.perf_counter() - began


def serve(build: Callable[[Case], System]) -> None:
    """Answer requests until stdin ends. `build` makes the system of a case."""
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # what libraries print belongs with the errors
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    work: Work | None = None
    for line in sys.stdin:
        request = json.loads(line)
        match request.pop("do"):
            case "prepare":
                del work  # before the next one takes its memory
                work = Work(build, Case(**request["case"]))
                learning = work.case.task == "learning"
                answer = asdict(work.case) if learning else work.measure()
            case "machine":
                answer = measured_machine(Case(**request["case"]))
            case do if work is not None:
                answer = getattr(work, do)(**request)
        print(json.dumps(answer), file=answers)
