"""Lets PyPI's torchvision be imported beside a CPU build of torch.

PyPI's torchvision wheels are linked against CUDA. Beside a CPU build of torch their
operators cannot be loaded, and `import torchvision` then fails with "operator torchvision::nms
does not exist", and open_clip, timm and torchmetrics with it. Declaring the schemas of the two
operators that torchvision registers at import is enough for all that Corgi uses; only `ops.nms`
and `io.read_image` stay unavailable. On a matching pair of builds nothing is declared.

The finder waits for the first `import torchvision`, so importing Corgi loads no torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[object] = []  # torch forgets a library's schemas once the object is collected


class _BeforeTorchvision(MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "torchvision":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.submodule_search_locations:
            _declare_missing_operators(Path(next(iter(spec.submodule_search_locations))))
        return spec


def _declare_missing_operators(package: Path) -> None:
    import torch

    operators: Any = torch.ops  # these functions of torch have no annotations
    library: Any = torch.library
    try:
        for path in package.glob("_C*.so"):
            operators.load_library(str(path))
        _ = operators.torchvision.nms
    except (OSError, AttributeError, RuntimeError):
        fragment = library.Library("torchvision", "FRAGMENT")
        for schema in _SCHEMAS:
            fragment.define(schema)
        _declared.append(fragment)


def install() -> None:
    """Put the finder first on `sys.meta_path`, once, unless torchvision is loaded already."""
    if "torchvision" in sys.modules or any(
        isinstance(f, _BeforeTorchvision) for f in sys.meta_path
    ):
        return
    sys.meta_path.insert(0, _BeforeTorchvision())
