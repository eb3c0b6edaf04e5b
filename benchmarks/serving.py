"""How many pictures `corgi serve` answers with: `python -m benchmarks.serving`.

A client that waits for each picture before it asks for the next, against sixteen of them at once,
over HTTP on this machine's loopback, in turn.
"""

from __future__ import annotations

import http.client
import json as json_module
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
import uvicorn
from rich import box
from rich.console import Console
from rich.table import Table

from corgi_core.errors import CorgiError
from corgi_core.io.files import write_json
from corgi_core.pipeline import CorgiPipeline
from corgi_core.serving.app import Api
from corgi_core.serving.engine import BATCH_SIZE, Engine
from corgi_core.serving.metrics import ServingMetrics
from corgi_core.serving.model import ServedModel
from corgi_core.serving.server import listening_on

GOAL = 3.0  # times as many pictures at once as one by one
Row = dict[str, Any]


def main(
    source: Annotated[
        str, typer.Argument(help="A workspace, or a folder that save_pretrained wrote.")
    ] = "emoji",
    home: Annotated[Path, typer.Option(help="The folder of the workspaces.")] = Path(".corgi"),
    clients: Annotated[int, typer.Option(min=2, help="That ask at once.")] = BATCH_SIZE,
    pictures: Annotated[int, typer.Option(min=1, help="For each client, in each round.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="Of both cases, in turn.")] = 5,
    threads: Annotated[int, typer.Option(help="Of the CPU, for the models.")] = 2,
    json: Annotated[Path | None, typer.Option(help="Write the table's rows to this file.")] = None,
) -> None:
    """Measure pictures a second and the time of an answer, one by one and at once."""
    torch.set_num_threads(threads)
    pipeline = CorgiPipeline.from_pretrained(source, home=home)
    with serving(ServedModel(source, pipeline).warmed()) as port:
        seconds: dict[int, list[tuple[float, float]]] = {1: [], clients: []}
        for _ in range(rounds + 1):
            for count, times in seconds.items():
                times.append(measured(port, count, pictures * clients // count))
    rows = [row_of(count, times[1:], pictures * clients) for count, times in seconds.items()]
    for row in rows:
        row["times"] = row["per_second"] / rows[0]["per_second"]
    Console(highlight=False).print(table_of(rows))
    if json is not None:
        write_json(json, rows)


@contextmanager
def serving(model: ServedModel) -> Iterator[int]:
    """Serve until the block ends; yields the port."""
    engine, listener = Engine(model), listening_on("127.0.0.1", 0)
    config = uvicorn.Config(
        Api(engine, ServingMetrics()).app(), log_level="error", access_log=False, lifespan="off"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        engine.stop()


def measured(port: int, clients: int, pictures: int) -> tuple[float, float]:
    """Seconds until all clients have their pictures, and the median seconds of an answer."""

    def client(number: int) -> list[float]:
        connection, times = http.client.HTTPConnection("127.0.0.1", port), []
        for i in range(pictures):
            order = {"prompts": [f"the {i}th apple"], "seed": number}
            headers = {"Content-Type": "application/json", "Accept": "image/png"}
            began = time.perf_counter()
            connection.request("POST", "/v1/images", json_module.dumps(order), headers)
            answer = connection.getresponse()
            content = answer.read()
            if answer.status != 200:
                raise CorgiError(f"the server answered {answer.status}", content.decode())
            times.append(time.perf_counter() - began)
        connection.close()
        return times

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        times = [each for of_client in pool.map(client, range(clients)) for each in of_client]
    return time.perf_counter() - began, statistics.median(times)


def row_of(clients: int, rounds: list[tuple[float, float]], pictures: int) -> Row:
    """Medians over the rounds."""
    return {
        "clients": clients,
        "per_second": pictures / statistics.median(total for total, _ in rounds),
        "seconds": statistics.median(answer for _, answer in rounds),
    }


def table_of(rows: list[Row]) -> Table:
    """Clients down."""
    table = Table(title="corgi serve; medians of the rounds", box=box.SIMPLE_HEAD)
    for column in ("clients at once", "pictures/s", "an answer", "times", "goal"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        met = row["times"] >= GOAL
        goal = f"[{'green' if met else 'red'}]{'≥' if met else '<'} {GOAL:g}[/]"
        table.add_row(
            str(row["clients"]), f"{row['per_second']:.1f}", f"{row['seconds']:.3f} s",
            f"{row['times']:.1f}", goal if row["clients"] > 1 else "",
        )  # fmt: skip
    return table


if __name__ == "__main__":
    try:
        typer.run(main)
    except CorgiError as error:
        sys.exit(f"{error}")
