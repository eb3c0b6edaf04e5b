"""One step of the benchmark of scale in a process of its own, whose memory is the step's.

`python -m benchmarks.scale_steps.child NAME FOLDER` prints a line of JSON: the step's seconds
without those of its imports. FOLDER is a workspace that `benchmarks.scale` has prepared.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

NAME = "made"  # of the dataset
PARTITIONS = {
    "caption_subset": "10%", "gaussian_bank": "shifted-k16", "prior": "10%|shifted-k16",
    "decoder": "pca",
}  # fmt: skip
INGEST = "ingest"
ASSETS = (
    "raw_images", "images", "pixels", "clip_encoder", "image_embeddings", "text_embeddings",
    "split_overlap", "caption_subset", "gaussian_bank", "prior", "decoder", "evaluation",
)  # fmt: skip
STEPS = (INGEST, *ASSETS)


def main(step: str, folder: Path) -> float:
    """Do the step; the seconds that it took."""
    from orchestration.settings import Settings

    settings = Settings.load(
        {
            "CORGI_HOME": str(folder / "home"), "CORGI_DATA": str(folder / "data"),
            "CORGI_CONFIG": str(folder / "scale.yaml"), "CORGI_DATASET": NAME,
        }
    )  # fmt: skip
    if step == INGEST:
        from corgi_core.data.ingest import ingest

        raw, data = settings.dataset_folder / "raw_images", settings.preset.data
        began = time.perf_counter()
        ingest("webdataset", str(folder / "tars"), raw, data, settings.preset.seed)
        return time.perf_counter() - began
    import dagster as dg

    from orchestration.automation.refresh import Refresh, Step
    from orchestration.definitions import build_definitions
    from orchestration.resources.instance import open_instance

    repository = build_definitions(settings).get_repository_def()
    refresh = Refresh(repository, open_instance(settings), settings)
    began = time.perf_counter()
    refresh.materialize(Step(dg.AssetKey(step), PARTITIONS.get(step)))
    return time.perf_counter() - began


if __name__ == "__main__":
    took = main(sys.argv[1], Path(sys.argv[2]))
    print(json.dumps({"seconds": took}))
