"""Model folders: what is written is read, and what does not fit is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from upath import UPath

from corgi_core.errors import CorgiError
from corgi_core.io.files import read_json, write_json
from corgi_core.io.folders import published
from corgi_core.io.model_folder import digest_of_tensors, read_model_folder, write_model_folder


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


@pytest.mark.parametrize("where", ["local", "memory"])
def test_what_is_written_is_read_and_checked(tmp_path: Path, where: str) -> None:
    tensors = {"w": torch.arange(4.0)}
    root = UPath(tmp_path if where == "local" else f"memory://{tmp_path.name}")
    folder = root / "model"
    digest = write_model_folder(folder, "prior", {"width": 4}, tensors, {"metrics": {}})
    assert digest == digest_of_tensors(tensors)
    saved = read_model_folder(folder, "prior")
    assert saved.config["width"] == 4
    assert torch.equal(saved.tensors["w"], tensors["w"])
    with pytest.raises(CorgiError, match="not a 'decoder'"):
        read_model_folder(folder, "decoder")
    (published(folder) / "card.json").unlink()
    with pytest.raises(CorgiError, match=r"card\.json is missing"):
        read_model_folder(folder, "prior")
