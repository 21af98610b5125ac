"""Who may import whom: the architecture, as a test."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import weightloom

ROOT = Path(weightloom.__file__).parent
LAYERS = {
    "errors": set(),
    "http_status": {"errors"},
    "fabric": {"errors"},
    "registry": {"errors", "fabric"},
    "requests": {"errors", "fabric"},
    "engine": {"errors", "fabric", "registry", "requests"},
    "materialize": {"errors", "fabric", "registry", "requests", "engine"},  # beside the engine: its known answer only
    "telemetry": {"errors", "engine", "settings"},
    "settings": {"engine", "fabric", "registry", "ports"},
    "rest": {"errors", "http_status", "fabric", "registry", "requests", "engine", "settings", "telemetry"},
    "tls": {"errors", "settings"},
    "rpc": {"errors", "fabric", "registry", "requests", "engine", "settings", "tls"},
    "process": {"engine", "rest", "settings"},
    "ray": {"engine", "errors", "main", "rest", "rpc", "settings", "telemetry"},
    "supervisor": {"settings"},
    "ports": set(),
    "health": set(),
    "cli": {"errors", "fabric", "registry", "requests", "engine", "materialize", "settings", "main"},
}


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_only_the_layers_below_it(layer: str) -> None:
    files = list((ROOT / layer).rglob("*.py")) or [ROOT / f"{layer}.py"]
    parts = {tuple(name.split(".")) for file in files for name in imports_of(file)}
    used = {name[1] for name in parts if name[0] == "weightloom" and len(name) > 1 and (ROOT / name[1]).exists()}
    assert used - {layer} <= LAYERS[layer]


IMPORTS = "import sys, weightloom.fabric, weightloom_client; print(*sys.modules)"
HEAVY = {
    "torch",
    "fastapi",
    "starlette",
    "uvicorn",
    "sqlite3",
    "psycopg",
    "numba",
    "grpc",
    "matplotlib",
    "pydantic_settings",
    "ray",
    "fsspec",
    "pyarrow",
}


def test_the_fabric_and_the_client_import_nothing_heavy() -> None:
    loaded = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True).stdout.split()
    assert not HEAVY & {name.partition(".")[0] for name in loaded}


BASE_INSTALL = """
import sys
from importlib.machinery import PathFinder
HIDDEN = {"numba", "psycopg", "fastapi", "starlette", "uvicorn", "uvloop", "grpc", "pydantic_settings", "torch"}
HIDDEN |= {"matplotlib", "ray", "fsspec", "pyarrow"}

class WithoutExtras(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else super().find_spec(name, path, target)

sys.meta_path = [WithoutExtras if finder is PathFinder else finder for finder in sys.meta_path]
from weightloom.cli import main
sys.argv = ["weightloom", *sys.argv[1:]]
main()
"""


def test_the_base_install_makes_the_same_file_with_numpy_alone(tmp_path: Path) -> None:
    request = Path(__file__).parents[2] / "examples/fabricate.json"
    for name, program in (("base", ["-c", BASE_INSTALL]), ("full", ["-m", "weightloom"])):
        command = [sys.executable, *program, "fabricate", str(request), "-o", str(tmp_path / name)]
        subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "base").read_bytes() == (tmp_path / "full").read_bytes()
    told = subprocess.run([sys.executable, "-c", BASE_INSTALL, "serve"], capture_output=True, text=True, check=False)
    assert told.returncode == 2
    assert "weightloom[server]" in told.stderr
