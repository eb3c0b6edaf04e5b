"""Corgi works with less of an environment than libraries expect, and beside a proxy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from orchestration.environment import completed
from orchestration.settings import Settings

ROOT = Path(__file__).parents[2]
COMPLETE = "from orchestration.environment import restart_if_incomplete; restart_if_incomplete();"


def python(program: str, folder: Path, *wrapper: str, **environment: str) -> str:
    done = subprocess.run(
        [*wrapper, sys.executable, "-W", "ignore", "-c", program],
        cwd=folder, env={"PYTHONPATH": str(ROOT), **environment}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"here")

    def log_message(self, *_: object) -> None:
        pass


def test_requests_to_this_machine_pass_by_a_proxy(tmp_path: Path) -> None:
    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    program = f"""{COMPLETE}
import urllib.request, requests
url = "http://127.0.0.1:{server.server_port}/"
print(urllib.request.urlopen(url, timeout=5).read(), requests.get(url, timeout=5).content)
"""
    proxy = "http://127.0.0.1:9"  # where nothing listens
    said = python(program, tmp_path, http_proxy=proxy, HTTP_PROXY=proxy, NO_PROXY="example.org")
    server.shutdown()
    assert said.split() == ["b'here'", "b'here'"]


def test_the_program_starts_again_with_its_options_beside_a_proxy(tmp_path: Path) -> None:
    variables = {"PATH": os.environ["PATH"], "HTTPS_PROXY": "http://127.0.0.1:9"}
    command = [str(Path(sys.executable).with_name("corgi")), "config", "show", "--set", "seed=41"]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "seed: 41" in done.stdout


def test_other_exceptions_from_the_proxy_stay() -> None:
    assert completed({"NO_PROXY": "example.org", "all_proxy": "socks5://proxy:1"}) == {
        "NO_PROXY": "example.org,127.0.0.1,localhost,::1",
        "no_proxy": "127.0.0.1,localhost,::1",
        "all_proxy": "socks5://proxy:1",
    }


def test_a_complete_environment_stays_as_it_is() -> None:
    plain = {"PATH": "/bin", "NO_PROXY": "example.org", "HTTP_PROXY": ""}
    assert completed(plain) == plain
    beside_proxy = completed({"http_proxy": "http://proxy:1"})
    assert completed(beside_proxy) == beside_proxy


def test_a_user_without_an_entry_and_without_a_home_gets_both(tmp_path: Path) -> None:
    """In a user namespace, where this user has a number that no password file has."""
    wrapper = ("/usr/bin/env", "unshare", "--user", "--map-user=12345")
    try:
        subprocess.run([*wrapper, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine makes no user namespaces")
    program = f"""{COMPLETE}
import getpass, json, os, pathlib
print(json.dumps([os.getuid(), getpass.getuser(), str(pathlib.Path.home())]))
"""
    user, name, home = json.loads(
        python(program, tmp_path, *wrapper, PATH=os.environ["PATH"], CORGI_HOME=str(tmp_path))
    )
    assert (user, name, home) == (12345, "uid-12345", str(tmp_path))


def test_dvc_is_used_only_where_it_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source archive has .dvc and no .git."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    (tmp_path / "params.yaml").write_text("preset: emoji\n")
    settings = Settings.from_environment({})
    assert not settings.under_dvc
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = True\n")
    assert settings.under_dvc
    (tmp_path / ".dvc" / "config").write_text("")
    (tmp_path / ".git").mkdir()
    assert settings.under_dvc
