"""Functions of many items, computed in this process or on workers."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Protocol, TypeVar

from corgi_core import progress

Common = TypeVar("Common")
Item = TypeVar("Item")
Result = TypeVar("Result")


class Map(Protocol):
    """function(common, item) of every item, in the items' order; `function` can be pickled.

    In this process (`map_here`), or on workers (`Compute.map`), which end with the results. Who may
    not take them all closes them:

        with closing(mapped(function, common, items, what)) as results:
            for result in results: …
    """

    def __call__(
        self,
        function: Callable[[Common, Item], Result],
        common: Common,
        items: Sequence[Item],
        what: str,
    ) -> Generator[Result]:
        """The results; progress is reported as `what`."""


def map_here(
    function: Callable[[Common, Item], Result], common: Common, items: Sequence[Item], what: str
) -> Generator[Result]:
    """One item after the other, in this process."""
    yield from progress.track((function(common, item) for item in items), what, len(items))
