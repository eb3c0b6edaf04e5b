"""AdamW (Loshchilov and Hutter 2019, algorithm 2) over a model's parameters by name.

    mₙ = β₁ mₙ₋₁ + (1 − β₁) g        vₙ = β₂ vₙ₋₁ + (1 − β₂) g²
    θ ← θ − η ( m̂ / (√v̂ + ε) + λ θ ),   m̂ = mₙ / (1 − β₁ⁿ),   v̂ = vₙ / (1 − β₂ⁿ)

The update is torch's fused kernel, as in torch.optim.AdamW(fused=True). That class is not used
because it loads torch's compiler on its first use, which takes seconds in every new worker, and
keeps its state by position where a checkpoint wants names.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from corgi_core.config import TrainingSettings


class AdamW:
    """One optimiser; biases, gains and other vectors are not decayed (λ = 0)."""

    def __init__(self, model: nn.Module, settings: TrainingSettings) -> None:
        self._settings = settings
        self._parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._means = {n: torch.zeros_like(p) for n, p in self._parameters.items()}
        self._squares = {n: torch.zeros_like(p) for n, p in self._parameters.items()}
        self._steps = {n: torch.zeros((), device=p.device) for n, p in self._parameters.items()}

    def zero_grad(self) -> None:
        """Remove the gradients."""
        for parameter in self._parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Update every parameter that has a gradient."""
        having = [n for n, p in self._parameters.items() if p.grad is not None]
        matrices = [n for n in having if self._parameters[n].ndim >= 2]
        vectors = [n for n in having if self._parameters[n].ndim < 2]
        for names, decay in ((matrices, self._settings.weight_decay), (vectors, 0.0)):
            if names:
                self._update(names, learning_rate, decay)

    def tensors(self) -> dict[str, Tensor]:
        """The state by parameter: "<name>.exp_avg", "<name>.exp_avg_sq", "<name>.step"."""
        return {
            f"{name}.{entry}": state[name]
            for entry, state in self._states()
            for name in self._parameters
        }

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`; devices and memory formats follow the parameters."""
        for entry, state in self._states():
            for name in self._parameters:
                state[name].copy_(tensors[f"{name}.{entry}"])

    def _states(self) -> tuple[tuple[str, dict[str, Tensor]], ...]:
        return ("exp_avg", self._means), ("exp_avg_sq", self._squares), ("step", self._steps)

    def _update(self, names: list[str], learning_rate: float, weight_decay: float) -> None:
        torch._foreach_add_([self._steps[n] for n in names], 1)
        torch._fused_adamw_(
            [self._parameters[n] for n in names],
            [_gradient(self._parameters[n]) for n in names],
            [self._means[n] for n in names],
            [self._squares[n] for n in names],
            [],
            [self._steps[n] for n in names],
            lr=learning_rate,
            beta1=self._settings.betas[0],
            beta2=self._settings.betas[1],
            weight_decay=weight_decay,
            eps=self._settings.epsilon,
            amsgrad=False,
            maximize=False,
        )


def _gradient(parameter: nn.Parameter) -> Tensor:
    """The gradient laid out in memory as its parameter is: the kernel walks both in step."""
    gradient = parameter.grad
    if gradient is None:
        raise ValueError("there is no gradient")
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)
