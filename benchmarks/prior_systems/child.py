"""The child's side: a system in a process of its own, which does what stdin says and answers.

A line of JSON comes, {"do": …}, and one goes:

    prepare {case}    build the case, run it once to warm up     {"seconds"} of that run
    measure           sample, or take a training step, once      {"seconds", "items"}
    learn {seconds}   go on training for so long                 {"steps", "used"} so far
    evaluate          the held-out loss                          {"loss", "error"}
    sample {split, steps, guidance, path}
                      embeddings of a split's captions, as the safetensors "z" [n, d] at the path
    rate {batch, steps, guidance}
                      sample some captions, once                 {"seconds"}
    machine           the rates that floors are computed from    {"flops", "bytes"} per second

Only one child is asked at a time, and one that waits does not compute.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.prior_systems.captions import SplitCaptions, captions_of
from benchmarks.prior_systems.floor import measured_machine
from benchmarks.prior_systems.system import Captions, Case, System
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
        began = self._now()
        self.system = build(case)
        self.steps, self.used = 0, self._now() - began  # what is fitted beforehand is training
        settings = TrainingSettings(
            steps=1, batch_size=case.batch, learning_rate=case.learning_rate
        )
        self._clip_norm = settings.clip_norm
        self._optimizer = AdamW(self.system.network, settings)
        self._captions = captions_of(case)
        self._batch = self._captions.training(0)

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
        assert not isinstance(self._captions, SplitCaptions)
        self.system.network.eval()
        captions, schedule = self._captions.held_out(), Schedule.linear()
        random = torch.Generator().manual_seed(1)
        n = len(captions.image)
        t = ((torch.arange(n) + torch.rand(n, generator=random)) * (TIMESTEPS / n)).long()
        noise = torch.randn(captions.image.shape, generator=random)
        t, noise = t.to(self.case.device), noise.to(self.case.device)
        z_t = schedule.add_noise(captions.image, noise, t)
        errors = []
        rows = zip(_chunks(captions), z_t.split(AT_ONCE), t.split(AT_ONCE), strict=True)
        for some, noisy, times in rows:
            with autocast(self.case.precision, self.case.device):
                predicted = self.system.predict(some, noisy, times)
            errors.append((some.image - predicted.float()).square().mean(dim=1))
        errors_of_all = torch.cat(errors)
        return {"loss": errors_of_all.mean().item(), "error": errors_of_all.std().item() / n**0.5}

    def sample(self, split: str, steps: int, guidance: float, path: str) -> dict[str, Any]:
        """Write embeddings of the captions of a split to a file."""
        assert isinstance(self._captions, SplitCaptions)
        self.system.network.eval()
        captions = self._captions.held_out(split)
        torch.manual_seed(0)
        z = [self._sampled(some, steps, guidance) for some in _chunks(captions)]
        save_file({"z": torch.cat(z).float().cpu()}, path)
        return {"captions": len(captions.image)}

    def rate(self, batch: int, steps: int, guidance: float) -> dict[str, Any]:
        """The seconds in which the first captions of a batch are sampled."""
        self.system.network.eval()
        captions = Captions(*(x[:batch] for x in self._batch))
        return {"seconds": self._timed(lambda: self._sampled(captions, steps, guidance))}

    def _sample(self) -> None:
        self._sampled(self._batch, self.case.steps, self.case.guidance)

    def _sampled(self, captions: Captions, steps: int, guidance: float) -> Tensor:
        with torch.inference_mode(), autocast(self.case.precision, self.case.device):
            return self.system.sample(captions, steps, guidance)

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

    def _timed(self, work: Callable[[], object]) -> float:
        began = self._now()
        work()
        return self._now() - began

    def _now(self) -> float:
        """A time in seconds at which the work is done, by the clock or by what it has used."""
        if self.case.device.startswith("cuda"):
            torch.cuda.synchronize()
        elif self.case.task == "quality":
            return time.process_time() / torch.get_num_threads()
        return time.perf_counter()


def _chunks(captions: Captions) -> Iterator[Captions]:
    for rows in torch.arange(len(captions.image)).split(AT_ONCE):
        yield Captions(*(x[rows] for x in captions))


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
                learning = work.case.task in ("learning", "quality")
                answer = asdict(work.case) if learning else work.measure()
            case "machine":
                answer = measured_machine(Case(**request["case"]))
            case do if work is not None:
                answer = getattr(work, do)(**request)
        print(json.dumps(answer), file=answers)
