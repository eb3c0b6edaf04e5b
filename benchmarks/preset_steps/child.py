"""One model's step in a process of its own, whose memory is the model's.

`python -m benchmarks.preset_steps.child '{"preset": …}'` prints a line of JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.preset_steps.tasks import task_of
from benchmarks.training_steps import TrainingSteps
from corgi_core.config import Preset, load_preset
from corgi_core.config.loading import assigned
from corgi_core.errors import CorgiError
from corgi_core.sizes.model_size import COPIES_IN_TRAINING
from corgi_core.sizes.models import SizedModel, models_of
from corgi_core.sizes.step_cost import StepCost, step_cost
from corgi_core.training.memory import keep_freed_memory

BASE = 0.8e9  # bytes of the process before it has a model: Python and its libraries


@dataclass(frozen=True)
class Request:
    """Which model, and within what.

    Attributes:
        preset: The name of the preset.
        overrides: Assignments such as "prior.layers=16".
        model: A name of `models_of`.
        memory: Bytes that the process may take.
        threads: Of the CPU.
    """

    preset: str
    overrides: tuple[str, ...]
    model: str
    memory: float
    threads: int


@dataclass(frozen=True)
class Plan:
    """How a model is made to fit.

    Attributes:
        model: One of the preset.
        weight: Bytes of a weight of its matrices: 4, or 2 for bfloat16.
        cost: Of one sample.
    """

    model: SizedModel
    weight: int
    cost: StepCost

    @property
    def computed(self) -> float:
        """The bytes that `corgi_core.sizes` expects of the step.

        Autocast makes a bfloat16 copy of each matrix, unless it is one.
        """
        copies = self.cost.parameters + COPIES_IN_TRAINING * self.cost.trained
        casts = 2 * self.cost.parameters if self.weight == 2 else 0
        return self.weight * copies + max(0, self.cost.activations - casts)

    @property
    def what(self) -> str:
        """What is done, in words."""
        words = ["training" if self.model.training else "encoding"]
        words += [self.model.remark] if self.model.stage is not None and self.model.remark else []
        words += ["matrices in bfloat16"] if self.weight == 2 else []
        return ", ".join(words)


@dataclass(frozen=True)
class Outcome:
    """What a step took. `what` says of what, and what was done to make it fit."""

    preset: str
    model: str
    what: str
    parameters: int
    trained: int
    flops: int
    seconds: float
    computed_bytes: float
    peak_bytes: int


def measure(request: Request) -> Outcome:
    """Take one step of a model: of training, or of encoding if it is frozen."""
    torch.set_num_threads(request.threads)
    torch.manual_seed(0)
    preset = load_preset(request.preset, [assigned(each) for each in request.overrides]).preset
    plan = _plan(preset, request)
    with tempfile.TemporaryDirectory() as folder, keep_freed_memory():
        step = (
            _encoding(plan)
            if plan.model.training is None
            else _training(preset, plan, Path(folder))
        )
        began = time.perf_counter()
        step()
        seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Outcome(
        preset.name, request.model, plan.what, plan.cost.parameters, plan.cost.trained,
        plan.cost.flops, seconds, plan.computed, peak,
    )  # fmt: skip


def _plan(preset: Preset, request: Request) -> Plan:
    """The model in float32 if it fits, else in bfloat16."""
    models = {model.name: model for model in models_of(preset)}
    if request.model not in models:
        raise CorgiError(f"there is no {request.model!r}", f"choose one of {', '.join(models)}")
    model = models[request.model]
    build, run = model.build, model.run
    if build is None or run is None:
        raise CorgiError(f"{model.name}: {model.remark}", "leave it out with --models")
    cost = step_cost(build, partial(_run_one, run), "bf16")
    for weight in (4, 2):
        plan = Plan(model, weight, cost)
        if plan.computed + BASE <= request.memory:
            return plan
    raise CorgiError(
        f"{model.name} needs {(plan.computed + BASE) / 1e9:.1f} GB, and is given "
        f"{request.memory / 1e9:.1f} GB",
        "give it more with --memory",
    )


def _run_one(run: Callable[[nn.Module, int], Tensor], network: nn.Module) -> Tensor:
    return run(network, 1)


def _training(preset: Preset, plan: Plan, folder: Path) -> Callable[[], None]:
    task, training = task_of(preset, plan.model, folder)
    network = task.build()
    task.prepare(network)
    if plan.weight == 2:
        for parameter in network.parameters():
            if parameter.ndim >= 2:  # vectors stay float32, as layer norms want them
                parameter.data = parameter.data.bfloat16()
    return TrainingSteps(task, training, network).step


def _encoding(plan: Plan) -> Callable[[], None]:
    build, run = plan.model.build, plan.model.run
    assert build is not None
    assert run is not None
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32 if plan.weight == 4 else torch.bfloat16)
    network: nn.Module = build().eval()

    def step() -> None:
        with torch.no_grad():
            run(network, 1)
        torch.set_default_dtype(usual)

    return step


if __name__ == "__main__":
    try:
        print(json.dumps(asdict(measure(Request(**json.loads(sys.argv[1]))))))
    except CorgiError as error:
        sys.exit(str(error))
