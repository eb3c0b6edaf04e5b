"""The one exception that is written for users."""

from __future__ import annotations


class CorgiError(ValueError):
    """An error that the user can correct: what is wrong, and the remedy, in one sentence each.

    The command line prints it without a traceback and exits with code 2; Dagster shows it as the
    step's failure. Any other exception is a defect of Corgi.

    Examples:
        >>> raise CorgiError("there is no preset 'emojis'", "choose emoji or emoji-small")
        Traceback (most recent call last):
        corgi_core.errors.CorgiError: there is no preset 'emojis'. choose emoji or emoji-small.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        self.problem = problem.rstrip(".")
        self.remedy = remedy.rstrip(".")
        super().__init__(f"{self.problem}. {self.remedy}.")

    def __reduce__(self) -> tuple[type[CorgiError], tuple[str, str]]:
        # Raised inside Ray workers too, so it must survive the way back.
        return (type(self), (self.problem, self.remedy))
