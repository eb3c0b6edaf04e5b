"""Which precision is chosen, and that a wrong name is refused."""

import pytest
import torch

from corgi_core.errors import CorgiError
from corgi_core.training.precision import InPrecision, autocast


def product_dtype(precision: str) -> torch.dtype:
    with autocast(precision, "cpu"):
        return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype


def test_named_precisions_are_what_they_say() -> None:
    assert product_dtype("fp32") == torch.float32
    assert product_dtype("bf16") == torch.bfloat16


@pytest.mark.parametrize(
    ("matrices", "vectors", "dtype"),
    [
        (True, True, torch.bfloat16),
        (False, True, torch.bfloat16),
        (False, False, torch.float32),
    ],
)
def test_auto_asks_for_instructions(
    monkeypatch: pytest.MonkeyPatch, matrices: bool, vectors: bool, dtype: torch.dtype
) -> None:
    known = {"amx_bf16": matrices, "avx512_bf16": vectors}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
    assert product_dtype("auto") == dtype


def test_other_names_are_refused() -> None:
    with pytest.raises(CorgiError, match="'half'"):
        autocast("half", "cpu")


def test_only_the_models_own_call_is_affected() -> None:
    model = InPrecision(torch.nn.Linear(2, 2), "bf16", "cpu")
    assert model(torch.ones(1, 2)).dtype == torch.bfloat16
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
