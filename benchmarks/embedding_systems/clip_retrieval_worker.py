"""clip-retrieval's inference: its reader, mapper and writer, as its `worker` puts them together.

Three things of it are left out, none of which encodes: the packages of its search server, which
importing its first module would need; the packages of multilingual text and of a tracking service;
and the process that collects its own statistics.

`python -m benchmarks.embedding_systems.clip_retrieval_worker FOLDER` speaks the protocol of `case`,
in the environment that `benchmarks.environments` makes.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from benchmarks.embedding_systems.case import Case, cosine, serve
from benchmarks.embedding_systems.open_clip_loop import FEW, loaded


def _worker_module() -> Any:
    """`clip_retrieval.clip_inference.worker`, without what it only imports."""
    found = importlib.util.find_spec("clip_retrieval")
    assert found is not None
    package, tracking, texts = map(ModuleType, ("clip_retrieval", "wandb", "sentence_transformers"))
    package.__path__ = list(found.submodule_search_locations or ())
    texts.SentenceTransformer = None  # type: ignore[attr-defined]
    sys.modules |= {module.__name__: module for module in (package, tracking, texts)}
    from clip_retrieval.clip_inference import worker

    worker.LoggerWriter = _NoStatistics
    return worker


class _NoStatistics:
    def __init__(self, partition_id: int, stats_folder: str) -> None: ...

    def start(self) -> None: ...

    def end(self) -> None: ...

    def __call__(self, statistics: dict[str, Any]) -> None: ...


class ClipRetrieval:
    def __init__(self) -> None:
        self._module = _worker_module()

    def embed(self, case: Case, folder: Path) -> int:
        if case.config is not None:
            import open_clip

            open_clip.add_model_config(case.config)
        self._module.worker(
            tasks=[0],
            input_dataset=case.tars,
            output_folder=str(folder),
            output_partition_count=1,
            input_format="webdataset",
            batch_size=case.batch,
            num_prepro_workers=case.workers,
            enable_text=False,
            enable_image=True,
            clip_model=f"open_clip:{case.architecture}/{case.weights}",
            use_jit=False,
        )
        return sum(len(np.load(path)) for path in folder.glob("img_emb/*.npy"))

    def check(self, case: Case) -> float:
        """Its wrapper of the model against plain open_clip."""
        model, _, _ = loaded(case.architecture, case.config, case.weights, "fp32")
        wrapped, _, _ = self._module.load_clip(
            clip_model=f"open_clip:{case.architecture}/{case.weights}", use_jit=False,
            warmup_batch_size=case.batch, clip_cache_path=None,
        )  # fmt: skip
        images = torch.randn(FEW, 3, *model.visual.image_size)
        with torch.no_grad():
            found, exact = wrapped.encode_image(images), model.encode_image(images)
        return cosine(found.half().numpy(), exact.numpy())


if __name__ == "__main__":
    serve(ClipRetrieval(), Path(sys.argv[1]))
