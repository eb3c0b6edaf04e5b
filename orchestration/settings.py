"""Where everything lies and which preset is in force: the environment, read in this one place.

CORGI_PRESET         the preset (default: emoji)
CORGI_DATASET        people's own data: the NAME given to `corgi ingest PATH --name NAME`
CORGI_HOME           state of Dagster, MLflow and Corgi (default: ./.corgi)
CORGI_DATA           datasets, which DVC may own (default: ./data)
CORGI_STORAGE        artefacts, a folder or a URL such as s3://bucket/corgi
                     (default: <home>/<workspace>/storage)
CORGI_RAY_ADDRESS    a Ray cluster (default: a local one, started when needed)
CORGI_WORKERS        Ray Train workers (default: the preset's)
CORGI_DAGSTER_PORT   where `corgi ui` serves Dagster, and links point to (default: 3000)
CORGI_MLFLOW_PORT    the same for MLflow (default: 5000)
CORGI_INCEPTION_WEIGHTS  a TorchScript Inception for the Fréchet distance (default: the preset's,
                     which is none: then the preset's own CLIP measures)
CORGI_STABLE_DIFFUSION   a hub id or a folder: the preset then has a decoder "stable_diffusion" too,
                     fine-tuned from that pipeline (default: it has none)
CORGI_CLIP           CLIP encoders with commas between: open_clip's names, hub ids, folders, such as
                     the clip_encoder of other data (default: the preset's)
CORGI_LANGUAGE_FREE  the source whose images are drawn without their captions (default: the preset's
                     for its own data, none for people's)
MLFLOW_TRACKING_URI  an MLflow server (default: SQLite under <home>/mlflow)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from upath import UPath

from corgi_core.config import Preset, preset_named
from corgi_core.errors import CorgiError

DEFAULT_PRESET = "emoji"
HOST = "127.0.0.1"  # pages are served to this machine alone
AS_TRAINING = (
    "workflowType=machine_learning"  # else MLflow's pages look for language models' traces
)


@dataclass(frozen=True)
class Settings:
    """One workspace: a preset applied to a dataset. All local paths are absolute."""

    preset: Preset
    own_dataset: str | None  # None: the preset's own source
    home: Path
    data: Path
    storage_url: str | None
    ray_address: str | None
    workers: int
    tracking_uri: str
    dagster_port: int
    mlflow_port: int
    inception_weights: str | None
    stable_diffusion: str | None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        preset = preset_named(environment.get("CORGI_PRESET") or DEFAULT_PRESET)
        own_dataset = environment.get("CORGI_DATASET") or None
        if own_dataset or environment.get("CORGI_LANGUAGE_FREE"):
            preset = preset.without_captions_of(environment.get("CORGI_LANGUAGE_FREE") or None)
        if clip := environment.get("CORGI_CLIP"):
            preset = preset.with_clip(tuple(map(_absolute, clip.split(","))))
        home = Path(environment.get("CORGI_HOME") or ".corgi").absolute()
        weights = environment.get("CORGI_INCEPTION_WEIGHTS")
        if weights and not Path(weights).is_file():
            raise CorgiError(
                f"CORGI_INCEPTION_WEIGHTS is {weights}, and there is no such file",
                "set it to the path of a TorchScript Inception, or leave it unset",
            )
        pipeline = environment.get("CORGI_STABLE_DIFFUSION")
        return cls(
            preset=preset,
            own_dataset=own_dataset,
            home=home,
            data=Path(environment.get("CORGI_DATA") or "data").absolute(),
            storage_url=environment.get("CORGI_STORAGE") or None,
            ray_address=environment.get("CORGI_RAY_ADDRESS") or None,
            workers=_number(environment, "CORGI_WORKERS", preset.workers),
            tracking_uri=environment.get("MLFLOW_TRACKING_URI")
            or f"sqlite:///{home / 'mlflow' / 'mlflow.db'}",
            dagster_port=_number(environment, "CORGI_DAGSTER_PORT", 3000),
            mlflow_port=_number(environment, "CORGI_MLFLOW_PORT", 5000),
            inception_weights=str(Path(weights).absolute()) if weights else None,
            stable_diffusion=_absolute(pipeline) if pipeline else None,
        )

    @property
    def dataset(self) -> str:
        return self.own_dataset or self.preset.name

    @property
    def workspace(self) -> str:
        """Names this preset on this data: the folder of its state, and its MLflow experiment."""
        return f"{self.preset.name}-{self.own_dataset}" if self.own_dataset else self.preset.name

    @property
    def state(self) -> Path:
        return self.home / self.workspace

    @property
    def dagster_home(self) -> Path:
        return self.state / "dagster"

    @property
    def work(self) -> Path:
        """Unfinished trainings, which a next run takes up."""
        return self.state / "work"

    @property
    def reports(self) -> Path:
        """`reports/` beside the data for DVC's own dataset, else under the workspace's state."""
        return Path("reports").absolute() if self.under_dvc else self.state / "reports"

    @property
    def storage(self) -> UPath:
        """Root of all artefacts but the datasets."""
        return UPath(self.storage_url or self.state / "storage")

    @property
    def dataset_folder(self) -> UPath:
        """Holds the folders `raw_images` and `images`."""
        return UPath(self.data / self.dataset)

    @property
    def mlflow_artifacts(self) -> Path:
        return self.home / "mlflow" / "artifacts"

    @property
    def dagster_page(self) -> str:
        return f"http://{HOST}:{self.dagster_port}"

    @property
    def mlflow_page(self) -> str:
        return f"http://{HOST}:{self.mlflow_port}"

    @property
    def under_dvc(self) -> bool:
        """Whether dvc.yaml describes this dataset: ./data of the preset named in params.yaml."""
        parameters = Path("params.yaml")
        return (
            self.own_dataset is None
            and self.data == Path("data").absolute()
            and Path(".dvc").is_dir()
            and parameters.exists()
            and f"preset: {self.preset.name}\n" in parameters.read_text(encoding="utf-8")
        )


def _absolute(name: str) -> str:
    """A folder's absolute path; the name of anything else as it is."""
    return str(Path(name).absolute()) if Path(name).is_dir() else name


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    value = environment.get(name) or str(default)
    if not value.isdecimal():
        raise CorgiError(
            f"{name} is {value!r}, not a number", "set it to 1, 2, … or leave it unset"
        )
    return int(value)


@cache
def settings() -> Settings:
    """The settings of this process; its environment does not change while it runs."""
    return Settings.from_environment(os.environ)
