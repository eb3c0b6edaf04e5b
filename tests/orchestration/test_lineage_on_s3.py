"""The whole lineage with datasets and artefacts on an S3 server over HTTP.

The server is moto's, a process of its own; no real S3 is asked. `corgi run` is killed by SIGKILL
in the middle of a write, and run again; a local run of the same settings is the oracle.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from upath import UPath

from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Dataset
from corgi_core.data.subsets import CaptionSubset
from corgi_core.errors import CorgiError
from corgi_core.evaluation.report import Evaluation
from corgi_core.io.folders import has_files, published
from corgi_core.io.model_index import digest_in
from corgi_core.prior.model import PriorModel
from tests.helpers import forked
from tests.helpers.patience import PATIENCE
from tests.helpers.s3 import S3, door_to
from tests.helpers.tiny_corgi import SMALL_PRESET

PRESET = (
    SMALL_PRESET.replace("[baseline, shifted-k1]", "[shifted-k1]") + "caption_subsets: [100%]\n"
)
PRIOR = "prior/100%/shifted-k1"


def start(home: Path, **variables: str) -> forked.Program:
    """`corgi run` in a workspace under `home`, its output in a file there."""
    home.mkdir(exist_ok=True)
    (home / "small.yaml").write_text(PRESET, encoding="utf-8")
    environment = os.environ | {
        "CORGI_HOME": str(home / ".corgi"), "CORGI_DATA": str(home / "data"),
        "CORGI_WORKERS": "0", "CORGI_CONFIG": str(home / "small.yaml"), **variables,
    }  # fmt: skip
    return forked.start(forked.CORGI, ["run"], environment, home, home / "log")


def digests(data: Path | UPath, storage: Path | UPath) -> dict[str, object]:
    """The digest of everything that a run makes."""
    parts = ("clip_encoder", "gaussian_bank/shifted-k1", PRIOR, "decoder/pca")
    arrays = ("pixels", "image_embeddings", "text_embeddings")
    return {
        **{name: Dataset.load(data / "emoji-small" / name).digest
           for name in ("raw_images", "images")},
        **{name: ArrayStore.load(storage / name).digest for name in arrays},
        **{part: digest_in(storage / part) for part in parts},
        "caption_subset": CaptionSubset.load(storage / "caption_subset" / "100%").digest,
        "evaluation": Evaluation.load(storage / "evaluation").digest,
    }  # fmt: skip


@pytest.mark.timeout(1500)  # on a machine that does much else; else two minutes
def test_killed_in_a_write_and_run_again_it_ends_as_a_local_run(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = s3.path("lineage")
    urls = {"CORGI_DATA": str(root / "data"), "CORGI_STORAGE": str(root / "storage")}
    local = start(tmp_path / "local")
    running: list[forked.Program] = []

    def kill_at_the_configuration(line: str) -> None:
        """Just before the prior's second file is written; its weights are there."""
        if line.startswith("PUT") and "/prior/" in line and line.endswith("/config.json"):
            running[-1].kill()

    with door_to(s3) as door:
        door.refused = kill_at_the_configuration
        running.append(start(tmp_path / "remote", AWS_ENDPOINT_URL=door.endpoint, **urls))
        assert running[0].wait(PATIENCE) == -signal.SIGKILL, (tmp_path / "remote/log").read_text()
    left = [key for key in s3.objects("lineage/storage") if key.startswith(PRIOR)]
    assert any(key.endswith("model.safetensors") for key in left)
    assert not has_files(root / "storage" / PRIOR)
    with pytest.raises(CorgiError, match="is no model folder"):
        PriorModel.load(root / "storage" / PRIOR)

    runs = {"remote": start(tmp_path / "remote", **urls), "local": local}
    for name, run in runs.items():
        assert run.wait(PATIENCE) == 0, (tmp_path / name / "log").read_text()
    assert digests(root / "data", root / "storage") == digests(
        tmp_path / "local" / "data", next((tmp_path / "local" / ".corgi").glob("*/storage"))
    )
    assert not (tmp_path / "remote" / "data").exists()
    assert published(root / "storage" / PRIOR) != root / "storage" / PRIOR
    # what was done before the kill was not done again
    log = (tmp_path / "remote" / "log").read_text()
    assert "decoder pca: unchanged" in log
    assert "image_embeddings: unchanged" in log
