"""The champions of a workspace as one MLflow model, which `mlflow models serve` answers with.

A version of `NAME-pipeline` is code (`infra/mlflow_pipeline.py`) and a configuration: which folders
of the registry's other models it loads, with their digests.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from dataclasses import asdict
from importlib.metadata import version as version_of_package
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from corgi_core.io.files import digest_of
from corgi_core.io.model_index import CHAMPION, PARTS, TextEncoderName
from orchestration.resources.model_registry import DIGEST_TAG, PIPELINE, Registry

CODE = "mlflow_pipeline.py"  # in infra/
log = logging.getLogger(__name__)


def register_pipeline(registry: Registry, text_encoder: TextEncoderName) -> str | None:
    """Give the alias `champion` of `NAME-pipeline` to a version that loads the present champions.

    A decision on champions does not depend on it: what fails here is logged.

    Args:
        registry: Has the champions.
        text_encoder: The encoder of the priors' text tokens.

    Returns:
        The version's number; None where a part has no champion, or it could not be made.
    """
    try:
        return _registered(registry, text_encoder)
    except Exception as error:
        log.warning(
            "the model that `mlflow models serve` loads was not made, so the one before stays; "
            "the next promotion tries again: %s",
            error,
            exc_info=True,
        )
        return None


def _registered(registry: Registry, text_encoder: TextEncoderName) -> str | None:
    champions = {part: registry.aliases(part).get(CHAMPION) for part in PARTS}
    if None in champions.values():
        return None
    known: dict[str, Any] = {"text_encoder": asdict(text_encoder)}
    tags = dict[str, str]()  # by which the models that it loads stay as long as it does
    for part, number in champions.items():
        found = registry.versions(part)[str(number)]
        tags[part] = found.tags[DIGEST_TAG]
        known[part] = {"folder": str(found.source), "digest": tags[part]}
    digest = digest_of(known)
    for number, version in registry.versions(PIPELINE).items():
        if version.tags.get(DIGEST_TAG) == digest:
            registry.alias(PIPELINE, CHAMPION, number)
            return number
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / PIPELINE
        _write(folder, known)
        tags[DIGEST_TAG] = digest
        number = registry.add(PIPELINE, folder, tags, "All champions together.")
    registry.alias(PIPELINE, CHAMPION, number)
    return number


def _write(folder: Path, configuration: dict[str, Any]) -> None:
    """Write MLflow's model; its requirements are named, which MLflow would load the models for."""
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    signature = ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "prompt")]),
        outputs=Schema([ColSpec(DataType.string)]),
        params=ParamSchema(
            [ParamSpec("seed", DataType.long, 0), ParamSpec("num_steps", DataType.long, 0)]
        ),
    )
    with as_file(files("infra").joinpath(CODE)) as code, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it advises types or an example, for the signature given
        mlflow.pyfunc.save_model(
            folder, python_model=str(code), model_config=configuration, signature=signature,
            pip_requirements=[f"corgi=={version_of_package('corgi')}"],
        )  # fmt: skip
