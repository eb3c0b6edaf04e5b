"""Which model folders generate: the versions that carry the alias `champion`, or another one.

Importing MLflow costs seconds that a first picture should not wait for. So a server is asked by
its REST interface, an SQLite store by two small queries; any other store by MLflow's own client.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlencode, urlsplit
from urllib.request import urlopen

from upath import UPath

from corgi_core.errors import CorgiError
from orchestration.settings import Settings

CHAMPION = "champion"
SERVER_TIMEOUT = 5  # seconds
SQLITE = "sqlite:///"
SOURCE = """
    select coalesce(v.storage_location, v.source)
    from registered_model_aliases a
    join model_versions v on v.name = a.name and v.version = a.version
    where a.name = ? and a.alias = ?
"""


def model_name(workspace: str, part: str) -> str:
    """The registered model of a workspace's "prior", "decoder" or "clip"."""
    return f"{workspace}-{part}"


def registered_folder(settings: Settings, part: str, alias: str = CHAMPION) -> Path | UPath:
    """The model folder of the "prior", "decoder" or "clip" of a workspace that has the alias.

    CorgiError where the registry has none, or does not answer.
    """
    name, uri = model_name(settings.workspace, part), settings.tracking_uri
    if uri.startswith(SQLITE):
        source = _from_sqlite(Path(uri.removeprefix(SQLITE)), name, alias)
    elif uri.startswith(("http://", "https://")):
        source = _from_server(uri, name, alias)
    else:
        source = _from_client(uri, name, alias)
    if source is None:
        raise CorgiError(
            f"the registry has no {alias} of {name}",
            f"make one first: corgi run --preset {settings.preset.name}"
            if alias == CHAMPION
            else f"materialise the {part} {alias}, then registered_models, in `corgi ui`",
        )
    return _folder(source, uri)


def _from_sqlite(path: Path, name: str, alias: str) -> str | None:
    if not path.exists():
        return None
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            found = database.execute(SOURCE, (name, alias)).fetchone()
    except sqlite3.OperationalError:  # another version's tables
        return _from_client(f"{SQLITE}{path}", name, alias)
    return str(found[0]) if found else None


def _from_server(uri: str, name: str, alias: str) -> str | None:
    query = urlencode({"name": name, "alias": alias})
    address = f"{uri.rstrip('/')}/api/2.0/mlflow/registered-models/alias?{query}"
    try:
        with urlopen(address, timeout=SERVER_TIMEOUT) as answer:
            return str(json.load(answer)["model_version"]["source"])
    except HTTPError as error:
        if error.code in (400, 404):
            return None
        raise CorgiError(f"MLflow at {uri} answers {error}", "look at the server's log") from error
    except (URLError, TimeoutError) as error:
        raise CorgiError(
            f"MLflow at {uri} does not answer ({error})",
            "start it (`corgi ui`), or unset MLFLOW_TRACKING_URI",
        ) from error


def _from_client(uri: str, name: str, alias: str) -> str | None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        return str(MlflowClient(uri).get_model_version_by_alias(name, alias).source)
    except MlflowException:
        return None


def _folder(source: str, tracking_uri: str) -> Path | UPath:
    if source.startswith("file:"):
        return Path(unquote(urlsplit(source).path))
    if source.startswith("mlflow-artifacts:"):  # only the server can read it
        from mlflow.artifacts import download_artifacts

        return Path(download_artifacts(artifact_uri=source, tracking_uri=tracking_uri))
    return UPath(source)
