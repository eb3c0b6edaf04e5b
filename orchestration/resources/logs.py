"""A workspace's log: `corgi.log`, with the lines of its runs, wherever they were started.

A run that `corgi` starts logs to it by the logger `file`, as the screen is needed for something
better. One that Dagster starts names no logger; what Dagster hears of it is appended. The file is
rotated when a step or another run begins to write to it.
"""

import logging
from collections.abc import Callable
from typing import Any

import dagster as dg

from orchestration.resources.log_context import LogContext
from orchestration.resources.log_rotation import rotate
from orchestration.settings import Settings

LOG_FILE = "corgi.log"
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(belongs)s%(message)s"
TO_FILE_ONLY: dict[str, Any] = {"loggers": {"file": {}}}  # run config


def file_handler(settings: Settings, run_id: str = "") -> logging.FileHandler:
    """Appends to <home>/<workspace>/corgi.log; a line says which runs and asset it belongs to.

    `run_id`: of Dagster's run that all lines belong to, if they do to one.
    """
    path = settings.state / LOG_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    rotate(path)
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter(FORMAT))
    handler.addFilter(LogContext(run_id))
    return handler


def file_logger_of(settings: Settings) -> dg.LoggerDefinition:
    """The logger that appends a run's lines to the workspace's corgi.log."""

    @dg.logger
    def log_file(init_context: dg.InitLoggerContext) -> logging.Logger:
        return _logger(settings, init_context.run_id or "")

    return log_file


def appended_to_log(
    settings: Settings, instance: dg.DagsterInstance, run: dg.DagsterRun
) -> Callable[[dg.EventLogEntry], None]:
    """A listener of Dagster's instance that appends a run's lines and events to corgi.log.

    The file is open for each line alone. Where it cannot be, the run says so once and goes on.
    """
    said = False

    def listen(entry: dg.EventLogEntry) -> None:
        nonlocal said
        try:
            append(entry)
        except OSError as error:
            if not said:
                said = True
                instance.report_engine_event(
                    f"corgi.log has not all lines of this run: {error}", run
                )

    def append(entry: dg.EventLogEntry) -> None:
        event = entry.dagster_event
        words = [entry.step_key, event and event.event_type_value, entry.message]
        error = entry.error_info or getattr(event and event.event_specific_data, "error", None)
        line = " - ".join(str(word) for word in words if word)
        logger = _logger(settings, run.run_id)
        try:
            logger.log(int(entry.level), "%s%s", line, f"\n\n{error.to_string()}" if error else "")
        finally:
            logger.handlers[0].close()

    return listen


def _logger(settings: Settings, run_id: str) -> logging.Logger:
    logger = logging.Logger("dagster", level=logging.DEBUG)
    logger.addHandler(file_handler(settings, run_id))
    return logger
