"""Names of datasets: valid as a folder's name on any system, and no preset's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corgi_core.config.names import check_dataset_name, valid_name
from corgi_core.errors import CorgiError


@given(st.text(max_size=80))
def test_the_proposed_name_is_valid(wanted: str) -> None:
    check_dataset_name(valid_name(wanted))


@pytest.mark.parametrize(
    ("name", "proposed"),
    [("../../victim", "victim"), ("emoji", "emoji-data"), ("Fotos Österreich", "fotos-osterreich")],
)
def test_another_name_is_refused_with_a_proposal(name: str, proposed: str) -> None:
    with pytest.raises(CorgiError) as refused:
        check_dataset_name(name)
    assert refused.value.remedy.endswith(f"such as {proposed}")
