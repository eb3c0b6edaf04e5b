"""A model folder of another format is refused before its names are looked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from corgi_core.errors import CorgiError
from corgi_core.io.files import read_json, write_json
from corgi_core.io.model_folder import read_model_folder, write_model_folder


@pytest.mark.parametrize("other", [None, 1, 3])
def test_a_folder_of_another_version_is_refused(tmp_path: Path, other: int | None) -> None:
    folder = tmp_path / "prior"
    write_model_folder(folder, "prior", {"width": 2}, {"weight": torch.ones(2)}, {})
    assert read_model_folder(folder, "prior").config["width"] == 2
    config = read_json(folder / "config.json")
    del config["format"]  # as the first version wrote it
    write_json(folder / "config.json", config if other is None else config | {"format": other})
    with pytest.raises(CorgiError, match="another version of Corgi") as refused:
        read_model_folder(folder, "prior")
    assert "materialise the model again" in refused.value.remedy
