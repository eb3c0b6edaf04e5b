"""A protocol for tests that need one and do not evaluate."""

from __future__ import annotations

from typing import Any

from corgi_core.evaluation.protocol import Protocol


def a_protocol(**changes: Any) -> Protocol:
    """Of a few captions, at 4 sampling steps, without pictures."""
    fields: dict[str, Any] = {
        "dataset": "made", "data_version": "0123456789abcdef", "held_out_captions": 9,
        "prior_steps": 4, "prior_sampler": "ddim", "prior_guidance": 1.0, "seed": 0,
        "encoders": ("a",), "clip": "fedcba9876543210",
    }  # fmt: skip
    return Protocol(**(fields | changes))
