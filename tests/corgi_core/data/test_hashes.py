"""The column of hashes: nothing that was added is missed, at a few bytes a row."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corgi_core.data.hashes import MAX_LABEL, HashColumn

ROWS = st.lists(st.tuples(st.text(max_size=3), st.integers(0, MAX_LABEL)), max_size=40)


@settings(max_examples=40)
@given(st.lists(ROWS, max_size=6), st.lists(st.text(max_size=3), max_size=20))
def test_it_finds_what_a_dictionary_finds(batches, others):
    column, labels = HashColumn(), {}
    for rows in batches:
        for value, label in rows:
            column.add([value], label)
            labels.setdefault(value, set()).add(label)
        wanted = [*labels, *others]
        found = column.labels_of(wanted)
        assert [set(found.get(i, ())) for i in range(len(wanted))] == [
            labels.get(value, set()) for value in wanted
        ]
    assert len(column) == sum(map(len, batches))


def test_labels_that_do_not_fit_are_refused():
    for label in (-1, MAX_LABEL + 1):
        with pytest.raises(ValueError, match="label"):
            HashColumn().add(["a"], label)
