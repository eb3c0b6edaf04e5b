"""A store out of reach is said before any work, in one sentence (moto's server, no real S3)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.processes import free_port
from tests.helpers.s3 import BUCKET, S3
from tests.orchestration.cli.test_errors import corgi, one_sentence


@pytest.mark.parametrize("variable", ["CORGI_DATA", "CORGI_STORAGE"])
def test_a_run_on_a_bucket_that_is_not_there(s3: S3, tmp_path: Path, variable: str) -> None:
    line = one_sentence(corgi(tmp_path, "run", **{variable: "s3://absent-bucket/corgi"}))
    assert "s3://absent-bucket/corgi" in line
    assert "there is no such bucket. Fix: create the bucket, or correct its name." in line
    assert not (tmp_path / ".corgi").exists()
    assert not (tmp_path / "s3:").exists()


def test_an_ingest_with_nobody_at_the_endpoint(s3: S3, tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    given = {"CORGI_DATA": f"s3://{BUCKET}/data", "AWS_ENDPOINT_URL": nobody}
    line = one_sentence(
        corgi(tmp_path, "ingest", ".", "--format", "imagefolder", "--name", "photos", **given)
    )
    assert "the store does not answer" in line
    assert nobody in line
