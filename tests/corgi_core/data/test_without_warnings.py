"""Threads that want no warnings leave the process's filters as they were."""

from __future__ import annotations

import warnings

from corgi_core.data.normalise import without_warnings


def test_two_that_overlap_leave_the_filters_as_they_were() -> None:
    before = list(warnings.filters)
    first, second = without_warnings(), without_warnings()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert warnings.filters[0][0] == "ignore"  # the second is still inside
    second.__exit__(None, None, None)
    assert list(warnings.filters) == before
