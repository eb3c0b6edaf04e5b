"""Shards that are mapped into memory: the bytes of the file, verified once, read where needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from corgi_core.data import mapped
from corgi_core.data.mapped import mapped_arrays
from corgi_core.errors import CorgiError


def written(path: Path) -> tuple[dict[str, np.ndarray], str]:
    """Arrays of all types in a file, and its SHA-256 by the system's own program."""
    import hashlib

    random = np.random.default_rng(0)
    arrays = {
        str(kind): random.integers(0, 2 if kind == "?" else 100, (3, 1 + n, 2)).astype(kind)
        for n, kind in enumerate(("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "?"))
    } | {"empty": np.zeros((0, 4), np.float16), "scalar": np.array(3.5)}
    path.write_bytes(safetensors.numpy.save(arrays))
    return arrays, hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_mapped_file_is_what_was_written(tmp_path: Path) -> None:
    arrays, sha256 = written(tmp_path / "a.safetensors")
    found = mapped_arrays(tmp_path / "a.safetensors", sha256)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
        assert not found[name].flags.writeable


def test_a_damaged_file_is_refused_and_one_that_was_verified_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    _, sha256 = written(path)
    hashed = []
    real = mapped.hashlib.sha256
    monkeypatch.setattr(mapped.hashlib, "sha256", lambda: hashed.append(1) or real())
    for _ in range(3):
        mapped_arrays(path, sha256)
    assert len(hashed) == 1
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorgiError, match="SHA-256 is wrong"):
        mapped_arrays(path, sha256)


@pytest.mark.parametrize("left", [0, 4, 20, 300])
def test_a_torn_file_is_named(tmp_path: Path, left: int) -> None:
    path = tmp_path / "a.safetensors"
    written(path)
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(CorgiError, match=r"a\.safetensors is damaged"):
        mapped_arrays(path, None)["f8"]


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorgiError, match="is not there any more"):
        mapped_arrays(tmp_path / "gone.safetensors", None)


MANY = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
from corgi_core.data.mapped import mapped_arrays
print(sum(int(mapped_arrays(path, None)["x"][0]) for path in Path(sys.argv[1]).iterdir()))
"""


def test_more_shards_are_read_than_the_system_lets_a_process_open(tmp_path: Path) -> None:
    for number in range(300):
        safetensors.numpy.save_file({"x": np.array([number])}, tmp_path / f"{number}.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", MANY, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == sum(range(300))
