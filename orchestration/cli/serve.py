"""`corgi serve`: a page and an API that sample from champions, or from the released model."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from corgi_core.errors import CorgiError
from orchestration.cli.generate import load_at_hand, training_images
from orchestration.cli.options import (
    ConfigOption,
    DatasetOption,
    PresetOption,
    SetOption,
    chosen_settings,
)

if TYPE_CHECKING:
    from corgi_core.serving.engine import Engine
    from corgi_core.serving.model import ServedModel
    from corgi_core.serving.reloading import ModelWatch
    from orchestration.proxy.guard import Guard, Rules
    from orchestration.settings import Settings

HOST, PORT = "127.0.0.1", 7860


def serve(
    host: Annotated[
        str, typer.Option(help="The address of this machine that is served on.")
    ] = HOST,
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port.")] = PORT,
    url: Annotated[
        str | None,
        typer.Option(
            help="Where people open the page, if not there: https://corgi.example.org, of your "
            "proxy or tunnel."
        ),
    ] = None,
    is_open: Annotated[
        bool,
        typer.Option("--open", help="Serve other machines without a password."),
    ] = False,
    prior: Annotated[
        str | None, typer.Option(help="An alias or a model folder; default: the champion.")
    ] = None,
    decoder: Annotated[
        str | None, typer.Option(help="An alias or a model folder; default: the champion.")
    ] = None,
    preset: PresetOption = None,
    dataset: DatasetOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Serve a page to play with, and an HTTP API, on this machine.

    [bold cyan]corgi serve[/bold cyan]  then open http://127.0.0.1:7860

    POST /v1/images makes images of prompts and images; /openapi.json has the whole schema.

    Before a workspace has champions, the released model answers, which comes with Corgi. Models
    that are promoted meanwhile answer from then on. Ctrl-C or SIGTERM finishes what was
    asked for. Other machines are served with a password (`corgi password FILE`,
    CORGI_PASSWORD_FILE=FILE) or with [bold]--open[/bold]. See docs/serving.md.
    """
    from corgi_core.serving.server import listening_on, run

    settings = chosen_settings(preset, dataset, config, overrides)
    rules = rules_of(settings, host, port, url, is_open)
    with listening_on(host, port) as listener:
        app, engine, watch = served(settings, rules, prior, decoder)
        typer.echo(f"http://{host}:{port}: {watch.model.name}; Ctrl-C stops")
        try:
            run(app, engine, listener)
        finally:
            watch.stop()


def rules_of(settings: Settings, host: str, port: int, url: str | None, is_open: bool) -> Rules:
    """What a request must be.

    Raises:
        CorgiError: If the address is none, or other machines would be served unawares.
    """
    from orchestration.access import check_url
    from orchestration.proxy.guard import Rules

    try:
        address = ipaddress.ip_address(host)
    except ValueError as error:
        raise CorgiError(
            f"--host is {host!r}, which is no IP address",
            f"give an address of this machine, such as {HOST}, or 0.0.0.0 for all of them",
        ) from error
    access = settings.access
    if not (address.is_loopback or access.password_file or access.user_header or is_open):
        raise CorgiError(
            f"on {host} whoever reaches this machine could use its processors",
            "ask for a password (`corgi password FILE`, CORGI_PASSWORD_FILE=FILE), or give --open",
        )
    if url is None and address.is_unspecified:
        raise CorgiError(
            f"{host} is no address that a browser can open",
            f"give the one that people open: --url http://NAME:{port}",
        )
    if url is None and not address.is_loopback:
        url = f"http://[{host}]:{port}" if address.version == 6 else f"http://{host}:{port}"
    if url is not None:
        check_url("--url", url)
    return Rules(url, access.hosts, "--url")


class Served(NamedTuple):
    """What answers requests: the guarded application, who samples, and who loads models."""

    app: Guard
    engine: Engine
    watch: ModelWatch


def served(
    settings: Settings,
    rules: Rules,
    prior: str | None = None,
    decoder: str | None = None,
    replica: str = "",
) -> Served:
    """Load a workspace's models, and all that answers with them.

    Args:
        settings: The workspace, and who knows the password.
        rules: What a request must be.
        prior: An alias or a model folder; None is the champion.
        decoder: Likewise.
        replica: Names this process in its metrics, where several answer under one address.

    Raises:
        CorgiError: If there are no models, or they do not fit each other.
    """
    from corgi_core.io.model_index import MODELS_FILE
    from corgi_core.serving.app import Api
    from corgi_core.serving.engine import Engine
    from corgi_core.serving.metrics import ServingMetrics
    from corgi_core.serving.reloading import ModelWatch
    from orchestration.proxy.guard import Guard
    from orchestration.proxy.users import KnownUsers

    access = settings.access
    users = KnownUsers(access) if access.password_file or access.user_header else None
    watch = ModelWatch(settings.state / MODELS_FILE, lambda: served_model(settings, prior, decoder))
    metrics = ServingMetrics(replica)
    engine = Engine(watch.model, on_batch=metrics.batch_was_sampled)
    watch.follow(engine, lambda outcome: metrics.reloads.labels(outcome).inc())
    app = Api(engine, metrics, watch).app()
    return Served(Guard(app, rules, users, answers_health=False), engine, watch)


def served_model(settings: Settings, prior: str | None, decoder: str | None) -> ServedModel:
    """The models that sample for a workspace now, on this machine's best device."""
    from corgi_core.devices import Device
    from corgi_core.io.model_index import MODELS_FILE, ModelIndex
    from corgi_core.serving.model import ServedModel, decoders_beside

    at_hand = load_at_hand(settings, prior, decoder)
    pipeline = at_hand.pipeline.to(Device().here(), settings.preset.inference_precision)
    try:
        training = training_images(settings, pipeline.clip.digest)
    except CorgiError:  # they are elsewhere, or were embedded by other encoders
        training = None
    path = settings.state / MODELS_FILE
    own = ModelIndex.load(path) if path.exists() and not at_hand.is_released else None
    others = decoders_beside(pipeline, own) if own else {}
    return ServedModel(str(at_hand), pipeline, training, others, at_hand.is_released)
