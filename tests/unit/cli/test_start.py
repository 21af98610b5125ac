"""The command line as it begins."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

STOPPED_WHILE_IT_IMPORTS = """
import os, runpy, sys

class Stop:
    def find_spec(name, path, target=None):
        if name == "weightloom.cli":
            os.kill(os.getpid(), int(sys.argv[1]))

sys.meta_path.insert(0, Stop)
runpy.run_module("weightloom", run_name="__main__")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_while_it_imports_is_no_traceback(number: int) -> None:
    command = [sys.executable, "-c", STOPPED_WHILE_IT_IMPORTS, str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (128 + number, "")
