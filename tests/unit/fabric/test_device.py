"""Which device is taken, and that nothing of a GPU is imported where there is none."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from weightloom.errors import InvalidInput, Unavailable
from weightloom.fabric.device import Cpu, open_device
from weightloom.fabric.gpu import finding

WITHOUT_GPU = """
import sys
from pathlib import Path
from weightloom.fabric.gpu import finding
finding.driver_has_gpus = lambda: False
from weightloom.main import build_engine
from weightloom.settings import Settings
engine = build_engine(Settings(data_dir=Path(sys.argv[1])))
print(engine.device.name, engine.check_ready(), {"torch", "triton"} & set(sys.modules))
engine.close()
"""


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "driver_has_gpus", lambda: True)
    monkeypatch.setattr(finding, "find_spec", lambda name: None)


def test_a_server_without_gpus_imports_neither_torch_nor_triton(tmp_path: Path) -> None:
    told = subprocess.run([sys.executable, "-c", WITHOUT_GPU, tmp_path], capture_output=True, text=True, check=True)
    assert told.stdout == "cpu {} set()\n"


@pytest.mark.usefixtures("nothing_installed")
def test_a_gpu_without_its_packages_is_told_and_the_processor_taken(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert isinstance(open_device(), Cpu)
    assert "there is a GPU here, but it is not used: device auto cannot be used: torch and triton not" in caplog.text
    assert "weightloom[server,cuda]" in caplog.text


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_a_gpu_that_is_asked_for_must_be_there(name: str) -> None:
    with pytest.raises(Unavailable, match=f"device {name} cannot be used: torch and triton not installed") as caught:
        open_device(name)
    assert caught.value.code == "gpu_unavailable"


def test_the_processor_is_not_asked_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(finding, "find_gpus")
    assert open_device("cpu", "numpy").backend.NAME == "numpy"


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "CUDA", ""])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="expected auto, cpu, cuda or cuda:N"):
        open_device(name)
