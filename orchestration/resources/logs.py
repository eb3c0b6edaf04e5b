"""Where log lines go when the screen is needed for something better."""

import logging
from typing import Any

import dagster as dg

from orchestration.resources.log_context import LogContext
from orchestration.settings import Settings

LOG_FILE = "corgi.log"
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(belongs)s%(message)s"
TO_FILE_ONLY: dict[str, Any] = {"loggers": {"file": {}}}  # run config


def file_handler(settings: Settings) -> logging.FileHandler:
    """Appends to <home>/<workspace>/corgi.log; a line says which runs and asset it belongs to."""
    path = settings.state / LOG_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter(FORMAT))
    handler.addFilter(LogContext())
    return handler


def file_logger_of(settings: Settings) -> dg.LoggerDefinition:
    """The logger that appends a run's lines to the workspace's corgi.log."""

    @dg.logger
    def log_file(init_context: dg.InitLoggerContext) -> logging.Logger:
        logger = logging.Logger("dagster", level=logging.DEBUG)
        logger.addHandler(file_handler(settings))
        return logger

    return log_file
