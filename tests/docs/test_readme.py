"""The README and the documents beside it do what they say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from support.modules import module_at
from support.server import Server
from support.tinybig import save_a_model
from weightloom.requests.json_form import ByModel, Inline

pytestmark = pytest.mark.timeout(900)  # many programs, one after the other
ROOT = Path(__file__).parents[2]


def blocks(language: str, document: str = "README.md") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


def run(program: str, folder: Path, server: Server) -> str:
    """What a program prints that asks ``server``."""
    program = program.replace("localhost:50051", server.grpc_target).replace("http://localhost:8000", server.url)
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def shell(script: str, folder: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_every_command_and_program_of_the_readme_works(server: Server, tmp_path: Path) -> None:
    """Run in order, as a reader would, in a folder that has the examples."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    for script in blocks("bash"):
        shell(script.replace("http://localhost:8000", server.url), tmp_path)
    shown = "".join(run(program, tmp_path, server) for program in blocks("python"))
    assert "layers.0.weight (64, 32) torch.float32" in shown
    tensors = safetensors.torch.load_file(tmp_path / "mlp-bf16.safetensors")
    assert tensors["layers.0.weight"].dtype == torch.bfloat16
    assert (tmp_path / "W.png").stat().st_size > 10_000
    server.request("DELETE", "/v1/models/demo/mlp")


def test_the_programs_of_the_clients_readme_work(server: Server, tmp_path: Path) -> None:
    save_a_model(tmp_path / "tinybig.pt")
    for program in blocks("python", "clients/python/README.md"):
        run(program, tmp_path, server)
    assert (tmp_path / "fc.bundle").stat().st_size < 4096
    for model in ("fc", "tinybig"):
        assert server.request("DELETE", f"/v1/models/demo/{model}").status == 204


def test_the_program_of_the_page_on_batch_work_works(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    (tmp_path / "program.py").write_text(*blocks("python", "docs/materialize.md"))  # workers import it
    command = [sys.executable, "program.py"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout == "3 0 0\n"


DOCUMENTS = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "clients/python/README.md",
    *(f"docs/{path.name}" for path in ROOT.glob("docs/*.md")),
]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document: str) -> None:
    file = ROOT / document
    for target in re.findall(r"\]\(([^)#]+)\)", file.read_text()):
        assert target.startswith("http") or (file.parent / target).exists(), target


def test_the_architecture_names_every_package_and_no_other() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    roots = (ROOT / "service/weightloom", ROOT / "clients/python/weightloom_client")
    packages = {path.parent.name for root in roots for path in root.glob("*/__init__.py")}
    assert packages == set(re.findall(r"^      (\w+)/ ", text, re.MULTILINE)) | {"cli"}
    folders = ("service", "clients", "proto", "tests", "benchmarks", "docs")
    there = {path.name for folder in folders for path in (ROOT / folder).rglob("*.py")}
    assert set(re.findall(r"\b(\w+\.py)\b", text)) <= there


def test_generated_pages_are_up_to_date() -> None:
    generate = module_at(ROOT / "docs/generate.py")
    for name, page in generate.PAGES.items():
        assert (ROOT / "docs" / name).read_text() == page(), f"{name}: run make docs"


def test_the_grpc_contract_has_every_field_of_the_json_request() -> None:
    text = (ROOT / "proto/weightloom_proto/v1/fabrication.proto").read_text()
    message = text[text.index("message FabricateRequest") :].split("\n}\n")[0]
    fields = set(re.findall(r"(\w+) = \d+;", message))
    assert set(ByModel.model_fields) | (set(Inline.model_fields) - {"name", "seed"}) <= fields


def test_no_file_names_a_place_of_one_machine() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        text = (ROOT / name).read_text(errors="ignore") if (ROOT / name).exists() else ""
        assert not re.search(r"/(root|home/\w+|work/main)/", text), name
