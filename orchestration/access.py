"""Under which addresses the pages are served, and to whom."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from corgi_core.errors import CorgiError

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")
HOST_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")


@dataclass(frozen=True)
class Access:
    """Addresses and users of Dagster's and MLflow's pages; by default this machine's alone.

    Attributes:
        listen: The address of this machine that the pages are served on.
        dagster_url: Where people find Dagster, such as https://dagster.example.org; None: here.
        mlflow_url: The same for MLflow.
        hosts: Further names that requests may give as their Host, such as a container's.
        password_file: What `corgi password` wrote; None: no password is asked for.
        user_header: The header in which a proxy in front names the user that it has authenticated.
        users: Who may come in by that header; "@example.org" stands for all of a domain.
        trusted_proxies: Networks from which the header is believed, such as 10.0.0.0/8.
    """

    listen: str = LOOPBACK_NAMES[0]
    dagster_url: str | None = None
    mlflow_url: str | None = None
    hosts: tuple[str, ...] = ()
    password_file: Path | None = None
    user_header: str | None = None
    users: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise CorgiError for addresses that are none, and for doors that would stand open."""
        for variable, url in (
            ("CORGI_DAGSTER_URL", self.dagster_url),
            ("CORGI_MLFLOW_URL", self.mlflow_url),
        ):
            if url is not None:
                check_url(variable, url)
        for name in self.hosts:
            if not HOST_NAME.fullmatch(name):
                raise CorgiError(
                    f"CORGI_HOSTS has {name!r}, which is no host name",
                    "give names alone, in lower case, with commas between them",
                )
        for network in self.trusted_proxies:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise CorgiError(
                    f"CORGI_TRUSTED_PROXIES has {network!r}: {error}",
                    "give networks such as 10.0.0.0/8, with commas between them",
                ) from error
        if self.user_header and not (self.users and self.trusted_proxies):
            raise CorgiError(
                "CORGI_USER_HEADER is set, and anyone could send that header",
                "name who may come in with CORGI_USERS, and with CORGI_TRUSTED_PROXIES the "
                "networks of the proxy that sets it",
            )
        if not (_is_loopback(self.listen) or self.password_file or self.user_header):
            raise CorgiError(
                f"CORGI_LISTEN is {self.listen}, and whoever reaches this machine could start runs",
                "ask for a password (`corgi password FILE`, CORGI_PASSWORD_FILE=FILE), or take "
                "users from a proxy in front (CORGI_USER_HEADER)",
            )


def origin_of(url: str) -> str:
    """A page's origin as browsers send it: scheme, host, and the port if it is another than usual.

    Examples:
        >>> origin_of("https://Dagster.example.org:443")
        'https://dagster.example.org'
    """
    parts = urlsplit(url)
    usual = {"http": 80, "https": 443}.get(parts.scheme)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = "" if parts.port in (None, usual) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}"


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError as error:
        raise CorgiError(
            f"CORGI_LISTEN is {address!r}, which is no IP address",
            "give an address of this machine, such as 127.0.0.1, or 0.0.0.0 for all of them",
        ) from error


def check_url(variable: str, url: str) -> None:
    """Raise CorgiError unless the URL that a setting has is a page's scheme and host alone."""
    try:
        parts = urlsplit(url)
        whole = bool(parts.scheme in ("http", "https") and parts.hostname and not parts.username)
        bare = not (parts.path or parts.query or parts.fragment) and parts.port != 0
    except ValueError:
        whole = bare = False
    if not (whole and bare):
        raise CorgiError(
            f"{variable} is {url!r}, which is no address of a page",
            "give scheme and host alone, without a path, such as https://dagster.example.org",
        )
