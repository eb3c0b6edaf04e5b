"""What must hold of gated data and of embeddings, as Great Expectations suites.

Nothing here has all rows in memory. What a row shows alone is checked in batches of rows. What rows
show only together, such as a key that two images have, is looked for by hashes, 8 bytes a row; the
rows whose hashes meet are then compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Rows
from corgi_core.data.quality import MAX_CAPTION
from corgi_core.data.splits import SPLITS

if TYPE_CHECKING:
    from great_expectations.expectations.expectation import Expectation

BATCH = 50_000  # rows, or a shard more, that a suite is asked about at once
EXAMPLES = 5  # of what is unexpected
COMPARED = ("key", "sha256", "split", "group")  # columns in which rows are compared


@dataclass(frozen=True)
class SuiteResult:
    """The verdict on rows. `table`: expectation, column, success, observed; one row each."""

    success: bool
    table: pd.DataFrame
    failures: list[str]  # one readable line for each expectation that does not hold


def check_manifest(rows: Rows) -> SuiteResult:
    """The manifest of a gated dataset: whole rows, all splits, and nothing that is in two of them.

    `rows` is called several times, and yields the same every time.
    """
    expect, suites = _expectations(), _Suites()
    images, splits, sized = _summary(rows)
    whole = ["key", "shard", "source", "group"]
    if sized:  # precomputed embeddings have no pixels
        whole += ["width", "height"]
    of_rows = [
        *(expect.ExpectColumnValuesToNotBeNull(column=column) for column in whole),
        expect.ExpectColumnValuesToMatchRegex(column="sha256", regex="^[0-9a-f]{64}$"),
        expect.ExpectColumnValuesToBeBetween(column="width", min_value=1),
        expect.ExpectColumnValuesToBeBetween(column="height", min_value=1),
        expect.ExpectColumnValuesToBeBetween(column="shortest_caption", min_value=1),
        expect.ExpectColumnValuesToBeBetween(column="longest_caption", max_value=MAX_CAPTION),
    ]
    for batch in _batches(rows()):
        suites.ask(_with_lengths(batch), of_rows)
    twins = pd.concat([pd.DataFrame(columns=list(COMPARED)), *_suspects(rows)], ignore_index=True)
    suites.ask(
        twins.assign(
            groups_in_two_splits=twins["group"].where(_in_two_splits(twins, "group")),
            images_in_two_splits=twins["key"].where(_in_two_splits(twins, "sha256")),
        ),
        [
            expect.ExpectColumnValuesToBeUnique(column="key"),
            expect.ExpectColumnValuesToBeUnique(column="sha256"),
            expect.ExpectColumnValuesToBeNull(column="groups_in_two_splits"),
            expect.ExpectColumnValuesToBeNull(column="images_in_two_splits"),
        ],
    )
    suites.ask(
        pd.DataFrame({"split": pd.Series(splits, dtype=object)}),
        [expect.ExpectColumnDistinctValuesToEqualSet(column="split", value_set=list(SPLITS))],
    )
    suites.ask(
        pd.DataFrame({"images": [images]}),
        [expect.ExpectColumnValuesToBeBetween(column="images", min_value=2)],
    )
    return suites.result()


def check_embeddings(stats: Iterable[pd.DataFrame]) -> SuiteResult:
    """Embeddings by their `stats` (key, norm, finite, width), in parts: finite, of one scale.

    Blocks are scaled to norm √width each, so whole embeddings have norm √width, to float16.
    """
    expect, suites = _expectations(), _Suites()
    count, widths = 0, set[int]()
    for batch in _batches(stats):
        count += len(batch)
        widths |= set(batch["width"])
        suites.ask(
            batch.assign(relative_norm=batch["norm"] / np.sqrt(batch["width"])),
            [
                expect.ExpectColumnValuesToNotBeNull(column="key"),
                expect.ExpectColumnValuesToBeInSet(column="finite", value_set=[True]),
                expect.ExpectColumnValuesToNotBeNull(column="relative_norm"),
                expect.ExpectColumnValuesToBeBetween(
                    column="relative_norm", min_value=0.99, max_value=1.01
                ),
            ],
        )
    suites.ask(
        pd.DataFrame({"embeddings": [count], "widths": [len(widths)]}),
        [
            expect.ExpectColumnValuesToBeBetween(column="embeddings", min_value=1),
            expect.ExpectColumnValuesToBeBetween(column="widths", max_value=1),
        ],
    )
    return suites.result()


def embedding_statistics(store: ArrayStore, array: str) -> Iterator[pd.DataFrame]:
    """Columns key, norm, finite and width of the store's embeddings, a row each, by shard."""
    for shard in store.shards:
        keys, stored = store.read_with_keys(shard, array)
        embeddings = stored.astype(np.float32)
        yield pd.DataFrame(
            {
                "key": keys,
                "norm": np.linalg.norm(embeddings, axis=1),
                "finite": np.isfinite(embeddings).all(axis=1),
                "width": embeddings.shape[1],
            }
        )


def _summary(rows: Rows) -> tuple[int, list[str], bool]:
    """The number of rows, the splits' names, and whether a row has a width."""
    count, splits, sized = 0, set[str](), False
    for part in rows("split", "width"):
        count += len(part)
        splits |= set(part["split"].dropna())
        sized |= bool(part["width"].notna().any())
    return count, sorted(splits), sized


def _with_lengths(batch: pd.DataFrame) -> pd.DataFrame:
    """The rows with the lengths of their shortest and longest captions instead of all captions."""
    lengths = batch["captions"].map(lambda captions: [len(c) for c in captions or ()])
    return batch.drop(columns="captions").assign(
        shortest_caption=lengths.map(lambda n: min(n, default=np.nan)),
        longest_caption=lengths.map(lambda n: max(n, default=np.nan)),
    )


def _in_two_splits(rows: pd.DataFrame, column: str) -> pd.Series[bool]:
    return rows.groupby(column)["split"].transform("nunique") > 1


def _batches(parts: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """The rows in frames of `BATCH` rows or a part more, the last one of what is left."""
    waiting: list[pd.DataFrame] = []
    for part in parts:
        waiting.append(part)
        if sum(map(len, waiting)) >= BATCH:
            yield pd.concat(waiting, ignore_index=True)
            waiting.clear()
    if waiting:
        yield pd.concat(waiting, ignore_index=True)


def _suspects(rows: Rows) -> Iterator[pd.DataFrame]:
    """The rows whose key or image another row may have too, or whose group is in another split.

    One column of hashes is in memory at a time.
    """
    twins = {
        "key": repeated(sorted_hashes(_hashes(part["key"]) for part in rows("key"))),
        "sha256": repeated(sorted_hashes(_hashes(part["sha256"]) for part in rows("sha256"))),
        "group": repeated(np.unique(sorted_hashes(map(_groups, rows("group", "split"))))),
    }
    if any(map(len, twins.values())):
        for part in rows(*COMPARED):
            found = [np.isin(_hashes(part[name]), hashes) for name, hashes in twins.items()]
            yield part[np.any(found, axis=0)]


_SPLIT = np.uint64(3)  # the bits of a hash that are left for a split
_LABELS = {split: label for label, split in enumerate(SPLITS)}


def _hashes(values: pd.Series[Any]) -> NDArray[np.uint64]:
    """A hash [n] of each value, whose last two bits are 0; 0 for a missing value."""
    hashes: NDArray[np.uint64] = pd.util.hash_array(values.to_numpy(object), categorize=False)
    return np.where(values.isna(), np.uint64(0), hashes & ~_SPLIT)


def _groups(rows: pd.DataFrame) -> NDArray[np.uint64]:
    """The hashes of the groups, each once a split; those of one group differ in their last bits."""
    split = rows["split"].map(_LABELS).fillna(len(SPLITS)).to_numpy(np.uint64)
    found: NDArray[np.uint64] = np.unique(_hashes(rows["group"]) | split)
    return found[found > _SPLIT]


def sorted_hashes(parts: Iterable[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    """All hashes of the parts, in order."""
    hashes = np.concatenate([np.zeros(0, np.uint64), *parts])
    hashes.sort()
    return hashes


def repeated(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Those of some sorted hashes that come more than once but for their last two bits, and not 0.

    Two values have the same hash by chance once in 2⁶² pairs.
    """
    whole = hashes & ~_SPLIT
    return np.unique(whole[1:][(whole[1:] == whole[:-1]) & (whole[1:] > 0)])


@dataclass
class _Found:
    """What an expectation has found so far, in all frames that it was asked about."""

    success: bool = True
    counts: dict[str, int] = field(default_factory=dict)  # of what is unexpected, and missing
    examples: dict[str, list[str]] = field(default_factory=dict)
    observed: str = "all as expected"

    def add(self, result: Any) -> None:
        """Take in Great Expectations' result for one more frame."""
        self.success &= bool(result.success)
        found = result.result
        if not found:
            self.observed = str(result.exception_info)
        for kind in ("unexpected", "missing"):
            self.counts[kind] = self.counts.get(kind, 0) + (found.get(f"{kind}_count") or 0)
            examples = self.examples.setdefault(kind, [])
            more = found.get(f"partial_{kind}_list", [])
            examples += [str(value) for value in more[: EXAMPLES - len(examples)]]
        if found.get("observed_value"):
            self.observed = str(found["observed_value"])

    def __str__(self) -> str:
        """A value, or how many rows (or values of a set) are unexpected or missing, and some."""
        faults = [
            f"{count} {kind}" + (f": {', '.join(some)}" if (some := self.examples[kind]) else "")
            for kind, count in self.counts.items()
            if count
        ]
        return "; ".join(faults) or self.observed


class _Suites:
    """Asks expectations about frames, and adds up what they find."""

    def __init__(self) -> None:
        import great_expectations as gx
        from great_expectations.data_context.types.base import ProgressBarsConfig

        context = gx.get_context(mode="ephemeral")
        context.enable_analytics(enable=False)
        context.variables.progress_bars = ProgressBarsConfig(globally=False)
        asset = context.data_sources.add_pandas("frames").add_dataframe_asset("frame")
        self._frames = asset.add_batch_definition_whole_dataframe("whole")
        self._found: dict[tuple[str, str], _Found] = {}  # by column and expectation

    def ask(self, frame: pd.DataFrame, expectations: list[Expectation]) -> None:
        """Ask about one frame, which may be a part of all rows."""
        import great_expectations as gx

        batch = self._frames.get_batch(batch_parameters={"dataframe": frame})
        suite = gx.ExpectationSuite(name="suite", expectations=expectations)
        for result in batch.validate(suite, result_format="SUMMARY").results:
            config: Any = result.expectation_config
            named = config.kwargs["column"], config.type.removeprefix("expect_")
            self._found.setdefault(named, _Found()).add(result)

    def result(self) -> SuiteResult:
        """The verdict on all frames, by column."""
        rows = [
            (expectation, column, found.success, str(found))
            for (column, expectation), found in sorted(self._found.items(), key=lambda f: f[0])
        ]
        table = pd.DataFrame(rows, columns=["expectation", "column", "success", "observed"])
        failures = [
            f"{column}: {expectation.replace('_', ' ')}, but {observed}"
            for expectation, column, success, observed in rows
            if not success
        ]
        return SuiteResult(not failures, table, failures)


def _expectations() -> Any:
    import great_expectations.expectations

    return great_expectations.expectations
