"""Who may come in: by a password, by a trusted proxy's word, and by nothing else."""

from __future__ import annotations

import asyncio
import base64
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from corgi_core.errors import CorgiError
from orchestration.access import Access, origin_of
from orchestration.cli.app import cli
from orchestration.proxy.passwords import StoredPassword, store_password
from orchestration.proxy.server import proxied
from orchestration.proxy.users import KnownUsers
from orchestration.settings import Settings

pytestmark = pytest.mark.unit
PASSWORD = "four words: in a row é"
HEADER = {"user_header": "X-User", "users": ("ann@example.org", "@corgi.example")}
PROXY = {"trusted_proxies": ("10.0.0.0/8", "fd00::/8")}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("secrets") / "password"
    store_password(PASSWORD, path)
    return path


def status(users: KnownUsers, peer: str = "10.1.1.1", **headers: str) -> int:
    """What the users' refusal of such a request says; 200 where there is none."""
    raw = [
        (name.replace("_", "-").lower().encode(), value.encode())
        for name, values in headers.items()
        for value in values.split("|")
    ]
    scope = {"type": "http", "headers": raw, "client": (peer, 1)}
    refusal = asyncio.run(users.refusal(scope))
    return refusal.status if refusal else 200


def basic(password: str) -> str:
    return f"Basic {base64.b64encode(f'any:{password}'.encode()).decode()}"


def test_the_password_opens_and_nothing_else_does(file: Path) -> None:
    users = KnownUsers(Access(password_file=file))
    assert status(users, Authorization=basic(PASSWORD)) == 200
    assert status(users, Authorization=basic(PASSWORD)) == 200  # remembered
    for wrong in ("", PASSWORD[:-1], PASSWORD + " ", "four words"):
        assert status(users, Authorization=basic(wrong)) == 401
    encoded = basic(PASSWORD).removeprefix("Basic ")
    for header in ("", "Basic", "Basic !!!", f"Bearer {encoded}", basic(PASSWORD) + "|x"):
        assert status(users, Authorization=header) == 401
    assert status(users) == 401
    assert status(users, X_User="ann@example.org") == 401


def test_the_file_does_not_tell_the_password(file: Path) -> None:
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert PASSWORD not in file.read_text()
    other = file.with_name("other")
    store_password(PASSWORD, other)
    assert other.read_text() != file.read_text()  # salted
    assert StoredPassword(other).matches(PASSWORD)


@pytest.mark.parametrize("text", ["", "secret", "md5:00:00", "scrypt:zz:00", "scrypt:00:00"])
def test_a_file_that_holds_no_hash_opens_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "file").write_text(text)
    with pytest.raises(CorgiError, match="corgi password"):
        KnownUsers(Access(password_file=tmp_path / "file"))


def test_a_short_password_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorgiError, match="11 characters"):
        store_password("hello world", tmp_path / "file")


@pytest.mark.parametrize("peer", ["10.1.1.1", "fd00::1"])
def test_a_trusted_proxys_users_come_in(peer: str) -> None:
    users = KnownUsers(Access(**HEADER, **PROXY))
    assert status(users, peer, X_User="Ann@Example.org") == 200
    assert status(users, peer, X_User="anyone@corgi.example") == 200
    for name in (
        "bob@example.org", "", "@corgi.example", "corgi.example", "a@sub.corgi.example",
        "ann@example.org|bob@example.org", "ann@example.org, bob@example.org",
    ):  # fmt: skip
        assert status(users, peer, X_User=name) == 403
    assert status(users, peer) == 403


@pytest.mark.parametrize("peer", ["127.0.0.1", "192.168.0.1", "::1"])
def test_nobody_else_is_believed(peer: str) -> None:
    users = KnownUsers(Access(**HEADER, **PROXY))
    assert status(users, peer, X_User="ann@example.org", X_Forwarded_For="10.1.1.1") == 403


def test_password_and_header_are_each_enough(file: Path) -> None:
    users = KnownUsers(Access(**HEADER, **PROXY, password_file=file))
    assert status(users, X_User="ann@example.org") == 200
    assert status(users, "::1", Authorization=basic(PASSWORD)) == 200
    assert status(users, "::1", X_User="ann@example.org") == 401


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"LISTEN": "0.0.0.0"}, "start runs"),
        ({"LISTEN": "everywhere"}, "no IP address"),
        ({"USER_HEADER": "X-User", "USERS": "ann"}, "CORGI_TRUSTED_PROXIES"),
        ({"USER_HEADER": "X-User", "TRUSTED_PROXIES": "10.0.0.0/8"}, "CORGI_USERS"),
        ({"TRUSTED_PROXIES": "10.0.0.1/8"}, "10.0.0.1/8"),
        ({"DAGSTER_URL": "dagster.example.org"}, "CORGI_DAGSTER_URL"),
        ({"MLFLOW_URL": "https://example.org/mlflow"}, "CORGI_MLFLOW_URL"),
        ({"HOSTS": "proxy,*.example.org"}, "CORGI_HOSTS"),
    ],
)
def test_an_open_door_is_named_before_anything_is_served(
    tmp_path: Path, variables: dict[str, str], named: str
) -> None:
    environment = {f"CORGI_{name}": value for name, value in variables.items()}
    settings = Settings.from_environment(environment | {"CORGI_HOME": str(tmp_path)})
    with pytest.raises(CorgiError, match=named):
        proxied(settings, "http://127.0.0.1:1", None)


def test_a_child_has_the_same_doors_and_links_lead_to_the_public_addresses(
    tmp_path: Path, file: Path
) -> None:
    environment = {
        "CORGI_HOME": str(tmp_path), "CORGI_LISTEN": "0.0.0.0", "CORGI_HOSTS": "Proxy, other",
        "CORGI_PASSWORD_FILE": str(file), "CORGI_DAGSTER_URL": "https://dagster.example.org/",
        "CORGI_MLFLOW_URL": "https://mlflow.example.org", "CORGI_USERS": "ann, bob",
        "CORGI_USER_HEADER": "X-User", "CORGI_TRUSTED_PROXIES": "10.0.0.0/8",
    }  # fmt: skip
    settings = Settings.from_environment(environment)
    again = Settings.from_environment(settings.child_environment({}))
    assert again.access == settings.access
    assert settings.access.hosts == ("proxy", "other")
    assert again.dagster_page == "https://dagster.example.org"
    assert again.mlflow_page == "https://mlflow.example.org"
    assert len(proxied(again, "http://a:1", "http://b:1")) == 2


def test_an_origin_is_as_browsers_send_it() -> None:
    assert origin_of("https://Dagster.example.org:443") == "https://dagster.example.org"
    assert origin_of("http://[::1]:3000") == "http://[::1]:3000"


def test_the_command_asks_twice_and_writes_what_opens(tmp_path: Path) -> None:
    file, runner = tmp_path / "password", CliRunner()
    done = runner.invoke(cli, ["password", str(file)], input=f"{PASSWORD}\n{PASSWORD}\n")
    assert done.exit_code == 0, done.output
    assert PASSWORD not in done.output
    assert StoredPassword(file).matches(PASSWORD)
