"""A line of the workspace's log says which run of Dagster's and of MLflow's it belongs to."""

import logging
import threading
from pathlib import Path

import dagster as dg

from orchestration.resources.log_context import in_mlflow_run
from orchestration.resources.logs import LOG_FILE, TO_FILE_ONLY, file_handler, file_logger_of
from orchestration.settings import Settings


def test_lines_lead_from_the_asset_to_its_mlflow_run(tmp_path: Path) -> None:
    settings = Settings.from_environment({"CORGI_HOME": str(tmp_path)})
    known: list[str] = []

    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(["10%"]))
    def prior(context: dg.AssetExecutionContext) -> None:
        with in_mlflow_run(lambda: known[0] if known else None):
            context.log.info("first")
            known.append("81ab")
            context.log.info("second")
            follower = threading.Thread(target=context.log.info, args=("followed",))
            follower.start()
            follower.join()
        context.log.info("last")

    job = dg.Definitions(
        [prior],
        jobs=[dg.define_asset_job("job", [prior])],
        loggers={"file": file_logger_of(settings)},
    ).resolve_job_def("job")
    result = job.execute_in_process(run_config=TO_FILE_ONLY, partition_key="10%")
    text = (settings.state / LOG_FILE).read_text()
    lines = {word: line for line in text.splitlines() for word in line.split()[-1:]}
    belongs = f"[run={result.run_id} asset=prior partition=10%"
    assert f"{belongs}] " in lines["first"]
    assert f"{belongs} mlflow=81ab] " in lines["second"]
    assert f"{belongs} mlflow=81ab] " in lines["followed"]
    assert f"{belongs}] " in lines["last"]


def test_a_line_of_no_step_belongs_to_nothing(tmp_path: Path) -> None:
    settings = Settings.from_environment({"CORGI_HOME": str(tmp_path)})
    logger = logging.Logger("corgi")
    logger.addHandler(file_handler(settings))
    logger.warning("alone")
    assert (settings.state / LOG_FILE).read_text().endswith("WARNING corgi: alone\n")


def test_a_line_of_a_jobs_op_belongs_to_no_asset(tmp_path: Path) -> None:
    """As those of the job `everything`, in which no asset is materialised by the op itself."""
    settings = Settings.from_environment({"CORGI_HOME": str(tmp_path)})

    @dg.op
    def walks(context: dg.OpExecutionContext) -> None:
        context.log.info("walked")

    @dg.job(logger_defs={"file": file_logger_of(settings)})
    def everything() -> None:
        walks()

    assert everything.execute_in_process(run_config=TO_FILE_ONLY).success
    [line] = [x for x in (settings.state / LOG_FILE).read_text().splitlines() if "walked" in x]
    assert "asset=" not in line
