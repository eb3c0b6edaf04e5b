"""Corgi's science: shifted diffusion for text-to-image generation, in plain PyTorch.

Imports no orchestrator (Dagster, Ray, MLflow), and importing the package itself loads no torch:
`CorgiPipeline` is imported when it is first named.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from corgi_core import torchvision_on_cpu

if TYPE_CHECKING:
    from corgi_core.pipeline import CorgiPipeline as CorgiPipeline

__all__ = ["CorgiPipeline", "__version__"]

try:
    __version__ = version("corgi")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+unknown"

torchvision_on_cpu.install()


def __getattr__(name: str) -> Any:
    if name == "CorgiPipeline":
        return import_module("corgi_core.pipeline").CorgiPipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
