"""Parameters, memory and operations of a preset's models, computed and not measured."""

from __future__ import annotations

from dataclasses import dataclass, replace

from corgi_core.config import Preset
from corgi_core.sizes.models import SizedModel, microbatch_of, models_of
from corgi_core.sizes.step_cost import step_cost

FLOAT32 = 4  # bytes
# Of every parameter that learns beside its weight: gradient, two moments of AdamW, moving average.
COPIES_IN_TRAINING = 4


@dataclass(frozen=True)
class ModelSize:
    """How large one model is, and what a step of it costs.

    Attributes:
        model: Its name, "prior" or "decoder gan".
        parameters: Their number; None where it is not known before the data or weights are there.
        trained: How many of the parameters learn.
        samples: Of a step over all workers; one for a frozen encoder.
        microbatch: Samples that a worker computes at once.
        steps: Of the training; 0 for a frozen encoder.
        trainings: How many of the model `corgi run` trains, or trains beside it.
        weights: Bytes of the parameters.
        flops: Floating-point operations of a step over all workers.
        activations: Bytes that a microbatch needs on a GPU, beside weights and their copies.
        workers: Ray Train's.
        gpus: That they have together.
        stage: The number of a cascade's stage; its stages learn one after the other.
        beside: The model in whose training it computes, on the same GPUs; none for all others.
        remark: Why the numbers are not known, or what they leave out.
    """

    model: str
    parameters: int | None = None
    trained: int = 0
    weights: int = 0
    samples: int = 1
    microbatch: int = 1
    steps: int = 0
    trainings: int = 0
    flops: int = 0
    activations: int = 0
    workers: int = 1
    gpus: float = 1
    stage: int | None = None
    beside: str = ""
    remark: str = ""

    @property
    def state(self) -> int:
        """Bytes of gradients, optimiser and moving average.

        Several workers hold the gradients once more, in the buffers that they are averaged in.
        """
        return FLOAT32 * (COPIES_IN_TRAINING + (self.workers > 1)) * self.trained

    @property
    def memory(self) -> int:
        """Bytes of one worker on a GPU, in training or in encoding."""
        return self.weights + self.state + self.activations


def model_sizes(preset: Preset) -> list[ModelSize]:
    """The sizes of the text encoder, CLIP encoders, prior and decoders of a preset.

    Raises:
        CorgiError: settings that no model can be built from.
    """
    workers = max(1, preset.workers)
    gpus = workers * preset.ray.training_gpus
    return [replace(_size_of(model, workers), gpus=gpus) for model in models_of(preset)]


def _size_of(model: SizedModel, workers: int) -> ModelSize:
    if model.build is None or model.run is None:
        return ModelSize(model.name, remark=model.remark)
    training, run = model.training, model.run
    samples, microbatch = 1, 1
    if training is not None:
        samples, microbatch = training.batch_size, microbatch_of(training, workers)
    precision = "bf16" if training is None else training.precision
    cost = step_cost(model.build, lambda network: run(network, microbatch), precision)
    return ModelSize(
        model=model.name,
        parameters=cost.parameters,
        trained=cost.trained,
        weights=cost.weights,
        samples=samples,
        microbatch=microbatch,
        steps=training.steps if training else 0,
        trainings=model.trainings,
        flops=cost.flops * samples // microbatch,
        activations=cost.activations,
        workers=workers,
        stage=model.stage,
        beside=model.beside,
        remark=model.remark,
    )
