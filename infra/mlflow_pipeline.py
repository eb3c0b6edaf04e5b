"""What MLflow runs to answer with a workspace's champions (models from code).

`mlflow models serve -m models:/emoji-pipeline@champion --env-manager local` serves it. The model's
configuration names the model folders and their digests; no weights are stored a second time.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from mlflow.artifacts import download_artifacts
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from corgi_core.devices import Device
from corgi_core.errors import CorgiError
from corgi_core.io.model_index import PARTS, TextEncoderName, digest_in
from corgi_core.pipeline import CorgiPipeline


class Pipeline(PythonModel):
    """Prompts to pictures, by `CorgiPipeline.text_to_image`."""

    def load_context(self, context: Any) -> None:
        """Load the models that the configuration names; CorgiError where a folder has others."""
        known, folders = context.model_config, {}
        for part in PARTS:
            folder = Path(download_artifacts(known[part]["folder"]))
            if digest_in(folder) != known[part]["digest"]:
                raise CorgiError(
                    f"{folder} does not hold the {part} {known[part]['digest']} any more",
                    "serve a newer version of this model",
                )
            folders[part] = folder
        text_encoder = TextEncoderName(**known["text_encoder"])
        pipeline = CorgiPipeline.from_folders(**folders, text_encoder=text_encoder)
        self._pipeline = pipeline.to(Device().here())

    # MLflow would make a schema of types.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """A PNG in base64 of each row's prompt: image 0 of `params["seed"]`, as `corgi serve`'s."""
        options = params or {}
        pictures = self._pipeline.text_to_image(
            list(model_input["prompt"]), seed=int(options.get("seed", 0)),
            num_steps=options.get("num_steps") or None,
        )  # fmt: skip
        return [_base64(picture) for picture in pictures]


def _base64(picture: Any) -> str:
    content = io.BytesIO()
    picture.save(content, format="PNG")
    return base64.b64encode(content.getvalue()).decode()


set_model(Pipeline())
