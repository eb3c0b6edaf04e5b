"""The one exception that people are meant to read."""

from __future__ import annotations


class CorgiError(ValueError):
    """Something a person can mend: what is wrong, where, and the remedy, in one sentence each.

    The command line prints it without a traceback and exits with code 2; Dagster shows it as the
    step's failure. Anything else that is raised is a defect of Corgi's.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        self.problem = problem.rstrip(".")
        self.remedy = remedy.rstrip(".")
        super().__init__(f"{self.problem}. {self.remedy}.")

    def __reduce__(self) -> tuple[type[CorgiError], tuple[str, str]]:
        # Raised inside Ray workers too, so it must survive the way back.
        return (type(self), (self.problem, self.remedy))
