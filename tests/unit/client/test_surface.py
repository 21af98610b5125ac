"""What `import weightloom_client` brings, and what it costs."""

from __future__ import annotations

import inspect
import subprocess
import sys

import weightloom_client

HEAVY = {"torch", "pydantic", "grpc", "rich", "ml_dtypes", "sqlite3", "numba"}


def test_importing_it_imports_nothing_heavy() -> None:
    program = "import sys, weightloom_client; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not HEAVY & {name.partition(".")[0] for name in loaded}
    assert "weightloom.fabric" not in loaded


def test_the_public_names_are_sorted_and_all_there_and_documented() -> None:
    names = weightloom_client.__all__
    assert names == sorted(names)
    for name in names:
        value = getattr(weightloom_client, name)
        assert inspect.getdoc(value), name
        for method, member in inspect.getmembers(value, inspect.isfunction):
            if not method.startswith("_") and member.__module__.startswith("weightloom_client"):
                assert member.__doc__, f"{name}.{method}"


def test_the_two_clients_have_the_same_calls() -> None:
    calls, mirrored = (
        {name for name in dir(client) if not name.startswith("_")}
        for client in (weightloom_client.Client, weightloom_client.AsyncClient)
    )
    assert calls - mirrored == {"fabricate_to"}, "a file's write would block the event loop"
    assert mirrored <= calls
