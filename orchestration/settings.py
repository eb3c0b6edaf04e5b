"""Which settings are in force, and where everything lies: options, environment, files, presets.

What wins, the strongest first: `--set`, options, environment, `--config` file, preset, default.

Any setting of a preset's section has a variable: CORGI_PRIOR__LAYERS=12 is
`--set prior.layers=12`. Others:

CORGI_PRESET         the preset (default: emoji)
CORGI_CONFIG         a YAML file whose settings replace those of the preset
CORGI_DATASET        one's own data: the NAME given to `corgi ingest PATH --name NAME`
CORGI_HOME           state of Dagster, MLflow and Corgi, a local folder (default: ./.corgi)
CORGI_DATA           datasets, a folder, which DVC may own, or a URL such as s3://bucket/data
                     (default: ./data)
CORGI_STORAGE        artefacts, a folder or a URL such as s3://bucket/corgi
                     (default: <home>/<workspace>/storage)
CORGI_RAY_ADDRESS    a Ray cluster (default: a local one, started when needed)
CORGI_DEVICE_LOCK    the file by which workspaces on one machine take turns on its device, or "off"
                     (default: one file a user in the folder of temporary files)
CORGI_DAGSTER_PORT   where `corgi ui` serves Dagster, and links point to (default: 3000)
CORGI_MLFLOW_PORT    the same for MLflow (default: 5000)
CORGI_DATABASE_URL   PostgreSQL for Dagster, such as postgresql://corgi@db:5432/dagster, without the
                     password: PGPASSFILE or PGPASSWORD has it (default: SQLite under <home>)
CORGI_MLFLOW_DATABASE_URL
                     the same of the database behind the MLflow server that MLFLOW_TRACKING_URI
                     names, for `corgi backup` (default: none, and it is in no backup)
CORGI_ALERTS_FILE    a file with the address of a webhook, which alerts go to (default: none)
MLFLOW_TRACKING_URI  an MLflow server, or PostgreSQL for it (default: SQLite under <home>/mlflow)
OTEL_EXPORTER_OTLP_ENDPOINT
                     a collector of OpenTelemetry that traces of runs go to, by OTLP over HTTP, such
                     as http://collector:4318 (default: none)
CORGI_TRACE_URL      where people see a trace, for links: https://jaeger.example.org/trace/{trace}

Who may see the pages of `corgi ui` (default: browsers on this machine, without a password):

CORGI_PASSWORD_FILE    the hash of a password that the pages ask for: `corgi password FILE`
CORGI_DAGSTER_URL      where people find Dagster, for links, such as https://dagster.example.org
CORGI_MLFLOW_URL       the same for MLflow
CORGI_LISTEN           the address of this machine that the pages are served on (default: 127.0.0.1)
CORGI_HOSTS            further names that requests may give as their Host, with commas
CORGI_USER_HEADER      the header in which a proxy in front names the user, such as
                       X-Auth-Request-Email
CORGI_USERS            who may come in by it, with commas; @example.org is all of a domain
CORGI_TRUSTED_PROXIES  the networks of that proxy, with commas

and these, for settings of a preset:

CORGI_WORKERS            workers
CORGI_INCEPTION_WEIGHTS  evaluation.inception_weights
CORGI_STABLE_DIFFUSION   decoders.stable_diffusion.pretrained
CORGI_CLIP               clip, with commas between encoders
CORGI_LANGUAGE_FREE      language_free.source
CORGI_ZERO_SHOT          zero_shot.dataset
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict
from upath import UPath

from corgi_core.config import PRESETS, Layer, LoadedPreset, Preset, load_preset
from corgi_core.config.loading import (
    assigned,
    file_layers,
    nested_layer,
    preset_values,
    yaml_of,
)
from corgi_core.config.names import check_dataset_name, check_name
from corgi_core.errors import CorgiError
from corgi_core.io.files import atomic_file, is_local
from corgi_core.io.object_store import check_reachable, is_url
from orchestration.access import LOOPBACK_NAMES, Access

DEFAULT_PRESET = "emoji"
SQLITE = "sqlite:///"
POSTGRES = "postgresql+psycopg2://"
HOST = LOOPBACK_NAMES[0]  # where pages are served, unless Access.listen says otherwise
AS_TRAINING = (
    "workflowType=machine_learning"  # else MLflow's pages look for language models' traces
)
PREFIX = "CORGI_"
TRACES_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACE = "{trace}"  # in CORGI_TRACE_URL, in place of a trace's id
NO_LOCK = "off"  # of CORGI_DEVICE_LOCK
SHORT_VARIABLES = {  # field of `Variables` → setting
    "workers": "workers",
    "inception_weights": "evaluation.inception_weights",
    "stable_diffusion": "decoders.stable_diffusion.pretrained",
    "clip": "clip",
    "language_free": "language_free.source",
    "zero_shot": "zero_shot.dataset",
}

Port = Annotated[int, Field(ge=1, le=65535)]


class Variables(BaseSettings):
    """The environment variables that are not settings of a preset by their own name."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore")

    preset: str | None = None
    config: Path | None = None
    dataset: str | None = None
    home: str = ".corgi"
    data: str = "data"
    storage: str | None = None
    ray_address: str | None = None
    device_lock: str | None = None
    database_url: str | None = None
    mlflow_database_url: str | None = None
    alerts_file: Path | None = None
    dagster_port: Port = 3000
    mlflow_port: Port = 5000
    tracking_uri: str | None = Field(default=None, validation_alias="MLFLOW_TRACKING_URI")
    traces_endpoint: str | None = Field(default=None, validation_alias=TRACES_VARIABLE)
    trace_url: str | None = None
    workers: int | None = None
    inception_weights: str | None = None
    stable_diffusion: str | None = None
    clip: str | None = None
    language_free: str | None = None
    zero_shot: str | None = None
    password_file: Path | None = None
    dagster_url: str | None = None
    mlflow_url: str | None = None
    listen: str = HOST
    hosts: str = ""
    user_header: str | None = None
    users: str = ""
    trusted_proxies: str = ""

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Variables:
        """The variables of an environment; CorgiError for one that cannot be read."""

        class Given(cls):  # type: ignore[misc, valid-type]
            @classmethod
            def settings_customise_sources(
                cls, settings_cls: type[BaseSettings], **_: Any
            ) -> tuple[EnvSettingsSource]:
                source = EnvSettingsSource(settings_cls)
                given = {name.lower(): value for name, value in environment.items() if value}
                source.env_vars = given  # an empty one counts as unset
                return (source,)

        try:
            return Given()
        except ValidationError as error:
            found = error.errors()[0]
            name = str(found["loc"][0])
            variable = name if name.isupper() else f"{PREFIX}{name.upper()}"
            raise CorgiError(
                f"{variable} is {found['input']!r}: {found['msg'].lower()}",
                f"correct {variable} or leave it unset",
            ) from error

    @property
    def access(self) -> Access:
        """Who may see the pages, and where."""
        return Access(
            listen=self.listen,
            dagster_url=_without_slash(self.dagster_url),
            mlflow_url=_without_slash(self.mlflow_url),
            hosts=_listed(self.hosts),
            password_file=self.password_file and self.password_file.absolute(),
            user_header=self.user_header,
            users=_listed(self.users),
            trusted_proxies=_listed(self.trusted_proxies),
        )

    def layers(self, environment: Mapping[str, str]) -> list[Layer]:
        """A layer for each variable that sets a setting of the preset."""
        layers = []
        for name, path in SHORT_VARIABLES.items():
            value = getattr(self, name)
            if value is not None:
                text = f"[{value}]" if name == "clip" else str(value)
                layers.append(nested_layer(f"{PREFIX}{name.upper()}", path, text))
        for variable in sorted(environment):
            path = variable.removeprefix(PREFIX).lower().replace("__", ".")
            if variable.startswith(PREFIX) and "." in path and environment[variable]:
                layers.append(nested_layer(variable, path, environment[variable]))
        return layers


@dataclass(frozen=True)
class Choice:
    """What was asked for of the preset, to be asked for again."""

    preset: str | None
    config: Path | None
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Settings:
    """One workspace: a preset applied to a dataset. All local paths are absolute."""

    preset: Preset
    base: str  # the name of the preset that a configuration file and overrides lie upon
    own_dataset: str | None  # None: the preset's own source
    home: Path
    data: Path | UPath  # a UPath where it is a URL
    storage_url: str | None
    ray_address: str | None
    device_lock: Path | None  # by which workspaces take turns; None: they do not
    database_url: str | None
    mlflow_database_url: str | None  # behind the server that tracking_uri names
    alerts_file: Path | None
    tracking_uri: str
    traces_endpoint: str | None  # of a collector of OpenTelemetry
    trace_url: str | None  # of a trace's page, with TRACE in place of its id
    dagster_port: int
    mlflow_port: int
    access: Access
    loaded: LoadedPreset = field(compare=False, repr=False)  # says where settings come from
    choice: Choice = field(compare=False)

    @classmethod
    def load(
        cls,
        environment: Mapping[str, str],
        *,
        preset: str | None = None,
        dataset: str | None = None,
        config: Path | None = None,
        overrides: Sequence[str] = (),
        dagster_port: int | None = None,
        mlflow_port: int | None = None,
    ) -> Settings:
        """The settings that options, an environment and files decide.

        Args:
            environment: variables by name.
            preset: the option --preset.
            dataset: the option --dataset.
            config: the option --config, a YAML file.
            overrides: the options --set, such as "prior.layers=12".
            dagster_port: the option --dagster-port.
            mlflow_port: the option --mlflow-port.

        Raises:
            CorgiError: an unknown or impossible setting, a file that cannot be read, or a name
                that cannot name a dataset.
        """
        variables = Variables.read(environment)
        base: str | None = None
        layers: list[Layer] = []
        if file := config or variables.config:
            base, layers = file_layers(file)
        if base and preset and base != preset:
            raise CorgiError(
                f"{file} extends the preset {base}, and --preset is {preset}",
                "leave --preset out, or change `extends`",
            )
        own_dataset = dataset if dataset is not None else variables.dataset
        if own_dataset is not None:
            check_dataset_name(own_dataset)
            layers.insert(0, Layer("own data", {"language_free": None}))
        loaded = load_preset(
            base or preset or variables.preset or DEFAULT_PRESET,
            [*layers, *variables.layers(environment), *map(assigned, overrides)],
        )
        _check_config_name(loaded)
        _check_weights(loaded)
        home = _local_home(variables.home)
        return cls(
            preset=loaded.preset,
            base=loaded.base,
            own_dataset=own_dataset,
            home=home,
            data=_data_root(variables.data),
            storage_url=variables.storage,
            ray_address=variables.ray_address,
            device_lock=_device_lock(variables.device_lock),
            database_url=_database("CORGI_DATABASE_URL", variables.database_url),
            mlflow_database_url=_database(
                "CORGI_MLFLOW_DATABASE_URL", variables.mlflow_database_url
            ),
            alerts_file=variables.alerts_file and variables.alerts_file.absolute(),
            tracking_uri=_tracking(
                variables.tracking_uri or sqlite_url(home / "mlflow" / "mlflow.db")
            ),
            traces_endpoint=_collector(variables.traces_endpoint),
            trace_url=_trace_page(variables.trace_url),
            dagster_port=dagster_port or variables.dagster_port,
            mlflow_port=mlflow_port or variables.mlflow_port,
            access=variables.access,
            loaded=loaded,
            choice=Choice(preset, config, tuple(overrides)),
        )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """The settings of an environment, by default this process's, without options."""
        return cls.load(os.environ if environment is None else environment)

    def check_zero_shot(self) -> None:
        """CorgiError where the zero-shot dataset has no valid name, or the models learn from it."""
        if self.preset.zero_shot is None:
            return
        name = self.preset.zero_shot.dataset
        check_dataset_name(name)
        if name == self.dataset:
            raise CorgiError(
                f"{name} is what the models learn from, so an evaluation on it is not zero-shot",
                "name another dataset in zero_shot.dataset, or leave it unset",
            )

    def child_environment(self, environment: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment, by default this process's, of a child that has these settings.

        They are written to a file under the workspace's state, which CORGI_CONFIG names.
        """
        path = self.state / "settings.yaml"
        with atomic_file(path) as temporary:
            temporary.write_text(yaml_of({"extends": self.base, **self.values}), encoding="utf-8")
        access = self.access
        given = {
            "CONFIG": str(path), "DATASET": self.own_dataset, "HOME": str(self.home),
            "DATA": str(self.data), "STORAGE": self.storage_url, "RAY_ADDRESS": self.ray_address,
            "DEVICE_LOCK": str(self.device_lock) if self.device_lock else NO_LOCK,
            "DATABASE_URL": self.database_url, "MLFLOW_DATABASE_URL": self.mlflow_database_url,
            "ALERTS_FILE": str(self.alerts_file) if self.alerts_file else None,
            "DAGSTER_PORT": str(self.dagster_port), "MLFLOW_PORT": str(self.mlflow_port),
            "LISTEN": access.listen, "DAGSTER_URL": access.dagster_url,
            "MLFLOW_URL": access.mlflow_url, "HOSTS": ",".join(access.hosts),
            "PASSWORD_FILE": str(access.password_file) if access.password_file else None,
            "USER_HEADER": access.user_header, "USERS": ",".join(access.users),
            "TRUSTED_PROXIES": ",".join(access.trusted_proxies), "TRACE_URL": self.trace_url,
        }  # fmt: skip
        inherited = os.environ if environment is None else environment
        others = {k: v for k, v in inherited.items() if not k.startswith(PREFIX)}
        ours = {f"{PREFIX}{name}": value for name, value in given.items() if value}
        traces = {TRACES_VARIABLE: self.traces_endpoint} if self.traces_endpoint else {}
        return others | ours | traces | {"MLFLOW_TRACKING_URI": self.tracking_uri}

    @property
    def values(self) -> dict[str, Any]:
        """The preset's settings as a file over `base` holds them: decoders left out are null."""
        values = preset_values(self.preset)
        below = preset_values(load_preset(self.base).preset)["decoders"]
        return values | {"decoders": dict.fromkeys(below) | values["decoders"]}

    @property
    def dataset(self) -> str:
        """The name of the dataset's folder; no dataset of one's own has a dot in its name."""
        if self.own_dataset:
            return self.own_dataset
        return self.preset.name if self.preset.name in PRESETS else f"{self.preset.name}.own"

    @property
    def workspace(self) -> str:
        """Names this preset on this data: the folder of its state, and its MLflow experiment."""
        return f"{self.preset.name}.{self.own_dataset}" if self.own_dataset else self.preset.name

    @property
    def state(self) -> Path:
        """The folder of the workspace's state."""
        return self.home / self.workspace

    @property
    def dagster_home(self) -> Path:
        """The folder of Dagster's instance."""
        return self.state / "dagster"

    @property
    def work(self) -> Path:
        """Unfinished trainings, which a next run takes up."""
        return self.state / "work"

    @property
    def reports(self) -> Path:
        """`reports/` beside the data for DVC's own dataset, else under the workspace's state."""
        return Path("reports").absolute() if self.under_dvc else self.state / "reports"

    @property
    def suites(self) -> Path:
        """Prompt suites with models' pictures and people's votes, a folder each."""
        return self.state / "suites"

    @property
    def storage(self) -> UPath:
        """Root of all artefacts but the datasets."""
        return UPath(self.storage_url or self.state / "storage")

    @property
    def dataset_folder(self) -> UPath:
        """Holds the folders `raw_images` and `images`."""
        return UPath(self.data / self.dataset)

    def check_stores(self) -> None:
        """Raise CorgiError where data or artefacts are on an object store that is out of reach."""
        for path in (self.dataset_folder, self.storage):
            if not is_local(path):
                check_reachable(path)

    @property
    def mlflow_is_served(self) -> bool:
        """Whether MLflow is a server elsewhere, not a database that is opened here."""
        return self.tracking_uri.startswith("http")

    @property
    def mlflow_database(self) -> str | None:
        """The address of MLflow's database; None where a server has it, and nobody named it."""
        return self.mlflow_database_url if self.mlflow_is_served else self.tracking_uri

    @property
    def mlflow_artifacts(self) -> Path:
        """The folder of the files of MLflow's runs."""
        return self.home / "mlflow" / "artifacts"

    @property
    def dagster_page(self) -> str:
        """The address of Dagster's pages, for people."""
        return self.access.dagster_url or f"http://{HOST}:{self.dagster_port}"

    @property
    def mlflow_page(self) -> str:
        """The address of MLflow's pages, for people."""
        return self.access.mlflow_url or f"http://{HOST}:{self.mlflow_port}"

    @property
    def under_dvc(self) -> bool:
        """Whether dvc.yaml describes this dataset: ./data of the preset named in params.yaml."""
        parameters, own = Path("params.yaml"), load_preset(self.base).preset
        return (
            self.own_dataset is None
            and self.preset.digest("name", "data", "seed") == own.digest("name", "data", "seed")
            and self.data == Path("data").absolute()
            and _has_dvc()
            and parameters.exists()
            and f"preset: {self.preset.name}\n" in parameters.read_text(encoding="utf-8")
        )


def _listed(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (each.strip().lower() for each in text.split(","))))


def _without_slash(url: str | None) -> str | None:
    return url and url.rstrip("/")


def _has_dvc() -> bool:
    """Whether this folder is a DVC project that works: in Git, or made to work without it."""
    config = Path(".dvc", "config")
    if not config.exists():
        return False
    here = Path.cwd()
    in_git = any((folder / ".git").exists() for folder in (here, *here.parents))
    return in_git or "no_scm = true" in config.read_text(encoding="utf-8").lower()


def settings_from(
    preset: str | None = None,
    dataset: str | None = None,
    config: Path | None = None,
    overrides: Sequence[str] = (),
    **ports: int | None,
) -> Settings:
    """The settings that options of the command line and this process's environment decide."""
    return Settings.load(
        os.environ, preset=preset, dataset=dataset, config=config, overrides=overrides, **ports
    )


def sqlite_url(path: Path) -> str:
    """SQLAlchemy's URL of an SQLite file."""
    return SQLITE + str(path).replace("%", "%25").replace("?", "%3F")


def sqlite_path(url: str) -> Path:
    """The file that an SQLite URL names."""
    return Path(unquote(url.removeprefix(SQLITE)))


def _data_root(data: str) -> Path | UPath:
    return UPath(data) if is_url(data) else Path(data).absolute()


def _device_lock(file: str | None) -> Path | None:
    if file == NO_LOCK:
        return None
    return Path(file or Path(tempfile.gettempdir(), f"corgi-device-{os.getuid()}.lock")).absolute()


def _database(variable: str, url: str | None) -> str | None:
    """The address that a variable has, which is written to files and must have no secret in it."""
    if url is None:
        return None
    try:
        parts = urlsplit(url)
        known = bool(parts.hostname and parts.path.strip("/"))
    except ValueError:
        known = False
    if not known or not url.startswith(("postgresql://", POSTGRES)):
        raise CorgiError(
            f"{variable} is no address of a PostgreSQL database",
            "give postgresql://USER@HOST:PORT/DATABASE",
        )
    if _has_secret(url):
        raise CorgiError(
            f"{variable} has a password in it, which files and command lines would show",
            "leave it out, and give it to PostgreSQL's clients by PGPASSFILE or PGPASSWORD",
        )
    return _with_driver(url)


def _tracking(uri: str) -> str:
    """MLflow's address, which command lines, links and errors show: it must have no secret."""
    if _has_secret(uri):
        raise CorgiError(
            "MLFLOW_TRACKING_URI has a password in it, which command lines and links would show",
            "leave it out, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD for a "
            "server, PGPASSFILE or PGPASSWORD for PostgreSQL",
        )
    return _with_driver(uri)


def _collector(endpoint: str | None) -> str | None:
    if endpoint is None:
        return None
    if not endpoint.startswith(("http://", "https://")):
        raise CorgiError(
            f"{TRACES_VARIABLE} is no web address, and traces are sent by OTLP over HTTP",
            "give the collector's, such as http://collector:4318, or leave it unset",
        )
    if _has_secret(endpoint):
        raise CorgiError(
            f"{TRACES_VARIABLE} has a password in it, which logs would show",
            "leave it out, and give it in OTEL_EXPORTER_OTLP_HEADERS",
        )
    return endpoint


def _trace_page(url: str | None) -> str | None:
    if url is not None and TRACE not in url:
        raise CorgiError(
            f"CORGI_TRACE_URL is {url}, and does not say where a trace's id goes",
            f"write {TRACE} in its place, as in https://jaeger.example.org/trace/{TRACE}",
        )
    return url


def _has_secret(url: str) -> bool:
    """Whether an address has a password, before its host or among its options.

    The user of a web server's address counts as one: it may be a token.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    named = parts.username is not None and parts.scheme in ("http", "https")
    return named or parts.password is not None or "password" in parse_qs(parts.query)


def _with_driver(url: str) -> str:
    """The address with the driver that is installed: SQLAlchemy takes another by default."""
    return POSTGRES + url.removeprefix("postgresql://") if url.startswith("postgresql://") else url


def _local_home(home: str) -> Path:
    if is_url(home):
        raise CorgiError(
            f"CORGI_HOME is {home}, and the databases there need a local folder",
            "name a local folder, and leave URLs to CORGI_DATA and CORGI_STORAGE",
        )
    return Path(home).absolute()


def _check_config_name(loaded: LoadedPreset) -> None:
    name = loaded.preset.name
    check_name("settings", name)
    if name in PRESETS and name != loaded.base:
        raise CorgiError(
            f"{loaded.origin_of('name')}: {name} is the name of a preset",
            f"choose another name, such as my-{name}",
        )


def _check_weights(loaded: LoadedPreset) -> None:
    evaluation = loaded.preset.evaluation
    for name, file, wanted in (
        ("inception_weights", evaluation.inception_weights, "a TorchScript Inception"),
        ("captions_file", evaluation.captions_file, "COCO's captions_val2014.json"),
    ):
        if file and not Path(file).is_file():
            path = f"evaluation.{name}"
            raise CorgiError(
                f"{loaded.origin_of(path)}: {path} is {file}, and there is no such file",
                f"give the path of {wanted}, or leave it unset",
            )
    folder = evaluation.dinov2_weights
    if folder and not Path(folder).is_dir():
        path = "evaluation.dinov2_weights"
        raise CorgiError(
            f"{loaded.origin_of(path)}: {path} is {folder}, and there is no such folder",
            "give the folder of a DINOv2, or leave it unset",
        )
    for folder in loaded.preset.evaluation.other_priors:
        if not Path(folder).is_dir():
            path = "evaluation.other_priors"
            raise CorgiError(
                f"{loaded.origin_of(path)}: {path} names {folder}, and there is no such folder",
                "give folders of diffusers pipelines or of the authors' priors, or leave it empty",
            )
