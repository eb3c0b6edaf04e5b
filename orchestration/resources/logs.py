"""Where log lines go when the screen is needed for something better."""

import logging
from typing import Any

import dagster as dg

from orchestration.settings import settings

LOG_FILE = "corgi.log"
TO_FILE_ONLY: dict[str, Any] = {"loggers": {"file": {}}}  # run config


def file_handler() -> logging.FileHandler:
    """Appends to <home>/<workspace>/corgi.log."""
    path = settings().state / LOG_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    return handler


@dg.logger
def log_file(init_context: dg.InitLoggerContext) -> logging.Logger:
    """Appends a run's lines to the workspace's corgi.log."""
    logger = logging.Logger("dagster", level=logging.DEBUG)
    logger.addHandler(file_handler())
    return logger
