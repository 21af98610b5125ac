"""``python -m weightloom.health``: what orchestrators ask from inside the container."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.server import Server
from weightloom.health import default_url

HEAVY = {"numpy", "pydantic", "typer", "asyncio", "weightloom.cli", "weightloom.errors"}


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({}, "http://127.0.0.1:8000/readyz"),
        ({"WEIGHTLOOM_HOST": "0.0.0.0", "WEIGHTLOOM_PORT": "81"}, "http://127.0.0.1:81/readyz"),
        ({"WEIGHTLOOM_HOST": "::"}, "http://[::1]:8000/readyz"),
        ({"WEIGHTLOOM_HOST": "10.0.0.7"}, "http://10.0.0.7:8000/readyz"),
    ],
)
def test_it_asks_the_server_of_the_same_environment(environment: dict[str, str], url: str) -> None:
    assert default_url(environment) == url


def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "weightloom.health", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_its_exit_code_and_one_line_say_how_it_is(server: Server) -> None:
    assert (ask(server.url).returncode, ask(f"{server.url}/healthz").returncode) == (0, 0)
    missing = ask(f"{server.url}/nothing")
    assert missing.returncode == 1
    assert "404" in missing.stderr
    assert ask("http://127.0.0.1:9").stderr.endswith("Connection refused\n")
    wrong = ask("http://127.0.0.1:port")
    assert wrong.returncode == 1
    assert len(wrong.stderr.splitlines()) == 1


def test_it_imports_next_to_nothing() -> None:
    program = "import sys, weightloom.health; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert not HEAVY & set(loaded.split())
