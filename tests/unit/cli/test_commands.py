"""The command line as a user types it, run in this process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
from support.server import SECONDS, Server
from weightloom.cli import main

MODEL = {
    "name": "demo/mlp",
    "seed": 7,
    "tensors": [
        {"name": "t", "shape": [40, 30], "l": 3, "r": 2},
        {"name": "b", "shape": [4], "kind": "identity"},
        {"name": "one", "shape": [2, 3], "kind": "constant", "value": "eye"},
    ],
}
W = {"t": [0.5, -1.0, 2.0], "b": [1.0, 2.0, 3.0, 4.0]}


class Shell:
    """A folder with the files of the examples, and a way to run commands in it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._monkeypatch, self._capsys = folder, monkeypatch, capsys
        monkeypatch.chdir(folder)
        (folder / "model.json").write_text(json.dumps(MODEL))
        (folder / "w.json").write_text(json.dumps(W))
        (folder / "request.json").write_text(json.dumps(MODEL | {"w": W}))
        arrays = {name: np.array(value, np.float32) for name, value in W.items()}
        (folder / "w.safetensors").write_bytes(safetensors.numpy.save(arrays))

    def run(self, *arguments: object, exit_code: int = 0) -> str:
        """Standard output and error together."""
        self._monkeypatch.setattr("sys.argv", ["weightloom", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = self._capsys.readouterr()
        assert ended.value.code == exit_code, shown.out + shown.err
        return shown.out + shown.err

    def file(self, name: str = "a.safetensors") -> dict[str, Any]:
        """A file's tensors."""
        return safetensors.torch.load_file(self.folder / name)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, monkeypatch, capsys)


def test_fabricate_takes_a_request_or_a_model_and_w(shell: Shell) -> None:
    shell.run("fabricate", "request.json", "-o", "a.safetensors")
    shell.run("fabricate", "--model", "model.json", "--w", "w.json", "-o", "b.safetensors")
    shell.run("fabricate", "-m", "model.json", "-w", "w.safetensors", "-o", "c.safetensors")
    shell.run("models", "create", "model.json")
    shell.run("fabricate", "-m", "demo/mlp", "-w", "w.json", "-o", "d.safetensors")
    made = [(shell.folder / f"{name}.safetensors").read_bytes() for name in "abcd"]
    assert made[0] == made[1] == made[2] == made[3]
    assert shell.file()["b"].tolist() == W["b"]


def test_options_choose_dtype_tensors_and_rows(shell: Shell) -> None:
    options = ["--dtype", "BF16", "--tensor", "t", "--rows", "t=5:9"]
    shell.run("fabricate", "request.json", "-o", "a.safetensors", *options)
    shell.run("fabricate", "request.json", "-o", "whole.safetensors", "--dtype", "BF16")
    part, whole = shell.file(), shell.file("whole.safetensors")
    assert list(part) == ["t"]
    assert (part["t"] == whole["t"][5:9]).all()


def test_a_failed_fabrication_leaves_no_file_and_keeps_the_old_one(shell: Shell) -> None:
    (shell.folder / "a.safetensors").write_text("old")
    before = sorted(path.name for path in shell.folder.iterdir())
    shown = shell.run("fabricate", "request.json", "-o", "a.safetensors", "--tensor", "nope", exit_code=1)
    assert shown.startswith("error: tensors: got 'nope'")
    assert sorted(path.name for path in shell.folder.iterdir()) == before
    assert (shell.folder / "a.safetensors").read_text() == "old"


def test_a_server_gives_the_same_file(shell: Shell, server: Server) -> None:
    shell.run("fabricate", "request.json", "-o", "a.safetensors", "--rows", "t=1:20")
    shell.run("fabricate", "request.json", "-o", "b.safetensors", "--rows", "t=1:20", "--url", server.url)
    assert (shell.folder / "a.safetensors").read_bytes() == (shell.folder / "b.safetensors").read_bytes()
    shown = shell.run("fabricate", "request.json", "-o", "c", "--url", server.url, "--rows", "t=1:99", exit_code=1)
    assert "422 rows_out_of_range" in shown
    unreachable = shell.run("models", "list", "--url", "http://127.0.0.1:1", exit_code=1)
    assert "Connection refused" in unreachable


@pytest.mark.parametrize("remote", [False, True])
def test_models_are_created_listed_shown_and_deleted(shell: Shell, server: Server, remote: bool) -> None:
    at = ["--url", server.url] if remote else []
    created = shell.run("models", "create", "model.json", *at)
    assert "only 2 degrees of freedom although its w has 3 numbers" in created
    assert "demo/mlp" in shell.run("models", "list", *at)
    shown = json.loads(shell.run("models", "show", "demo/mlp", *at))
    assert shown["digest"] in created
    assert "demo/mlp" in shell.run("inspect", "demo/mlp", *at)
    shell.run("models", "delete", shown["digest"], *at)
    missing = shell.run("models", "show", "demo/mlp", *at, exit_code=1)
    assert "no model has the name or digest 'demo/mlp'" in missing


def test_a_missing_registry_is_told(shell: Shell) -> None:
    assert "there is no registry at data/registry.sqlite3" in shell.run("models", "list", exit_code=1)
    assert not (shell.folder / "data").exists()


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_verify_finds_one_wrong_bit(shell: Shell, dtype: str) -> None:
    shell.run("fabricate", "request.json", "-o", "a.safetensors", "--dtype", dtype)
    assert "bit-equal: all" in shell.run("verify", "a.safetensors", "request.json", "--full")
    assert "bit-equal" in shell.run("verify", "a.safetensors", "-m", "model.json", "-w", "w.json")
    data = bytearray((shell.folder / "a.safetensors").read_bytes())
    data[-1200] ^= 1
    (shell.folder / "a.safetensors").write_bytes(data)
    shown = shell.run("verify", "a.safetensors", "request.json", "--full", exit_code=1)
    assert shown.startswith("not equal: tensor 't' differs at [")
    assert "model and w give" in shown


def test_verify_takes_files_that_others_have_written(shell: Shell) -> None:
    """The same tensors in another order under another header: it is the tensors that count."""
    shell.run("fabricate", "request.json", "-o", "a.safetensors")
    safetensors.torch.save_file(shell.file(), shell.folder / "b.safetensors")
    assert "tensors: 3" in shell.run("verify", "b.safetensors", "request.json")
    part = {"t": shell.file()["t"]}
    safetensors.torch.save_file(part, shell.folder / "c.safetensors")
    assert "tensors: 1" in shell.run("verify", "c.safetensors", "request.json", "--tensor", "t")
    missing = shell.run("verify", "c.safetensors", "request.json", exit_code=1)
    assert "tensor 'b': no such tensor" in missing
    extra = shell.run("verify", "b.safetensors", "request.json", "--tensor", "t", exit_code=1)
    assert "tensor 'b' is in the file, and not in what model and w give" in extra


def test_verify_samples_the_ends_of_a_large_tensor_and_says_that_it_sampled(shell: Shell) -> None:
    tensor = {"name": "t", "shape": [1024, 1024], "l": 1}
    (shell.folder / "big.json").write_text(json.dumps({"seed": 1, "tensors": [tensor], "w": {"t": [1.0]}}))
    shell.run("fabricate", "big.json", "-o", "big.safetensors")
    assert "bytes sampled (--full for all)" in shell.run("verify", "big.safetensors", "big.json", "--samples", "5")
    data = bytearray((shell.folder / "big.safetensors").read_bytes())
    data[-1] ^= 1
    (shell.folder / "big.safetensors").write_bytes(data)
    assert "[1023, 1023]" in shell.run("verify", "big.safetensors", "big.json", "--samples", "5", exit_code=1)


def test_verify_tells_other_shapes_and_dtypes(shell: Shell) -> None:
    shell.run("fabricate", "request.json", "-o", "a.safetensors", "--rows", "t=0:3")
    shown = shell.run("verify", "a.safetensors", "request.json", exit_code=1)
    assert "shape [3, 30], expected shape [40, 30]" in shown
    assert "bit-equal" in shell.run("verify", "a.safetensors", "request.json", "--rows", "t=0:3")
    (shell.folder / "b.safetensors").write_bytes(b"no such file")
    assert "error: " in shell.run("verify", "b.safetensors", "request.json", exit_code=1)


def test_inspect_shows_files_and_models(shell: Shell) -> None:
    shell.run("fabricate", "request.json", "-o", "a.safetensors")
    of_file = shell.run("inspect", "a.safetensors")
    assert "demo/mlp" in of_file
    assert "[40, 30]" in of_file
    for target in ("model.json", "request.json"):
        of_model = shell.run("inspect", target)
        assert "seed 7" in of_model
        assert "only 2 degrees of freedom" in of_model
        assert "4,840 bytes as F32" in of_model


@pytest.mark.parametrize("target", ["a.safetensors", "model.json", "request.json"])
def test_inspect_draws_pictures(shell: Shell, target: str) -> None:
    shell.run("fabricate", "request.json", "-o", "a.safetensors")
    assert "p.png: tensors drawn: 3" in shell.run("inspect", target, "--plot", "p.png")
    assert (shell.folder / "p.png").read_bytes().startswith(b"\x89PNG")


def test_inspect_draws_infinities(shell: Shell) -> None:
    tensor = {"name": "t", "shape": [4], "kind": "identity"}
    request = {"seed": 1, "tensors": [tensor], "w": {"t": [1e30, -1e30, 0, 1]}, "dtype": "F16"}
    (shell.folder / "inf.json").write_text(json.dumps(request))
    shell.run("fabricate", "inf.json", "-o", "inf.safetensors")
    assert "tensors drawn: 1" in shell.run("inspect", "inf.safetensors", "--plot", "p.png")


def test_an_output_that_is_no_new_file_is_treated_with_care(shell: Shell) -> None:
    (shell.folder / "real.safetensors").write_text("old")
    (shell.folder / "link.safetensors").symlink_to("real.safetensors")
    shell.run("fabricate", "request.json", "-o", "link.safetensors")
    assert (shell.folder / "link.safetensors").is_symlink()
    assert shell.file("real.safetensors")["b"].tolist() == W["b"]
    assert "Is a directory" in shell.run("fabricate", "request.json", "-o", ".", exit_code=1)
    assert "No such file" in shell.run("fabricate", "request.json", "-o", "nowhere/x", exit_code=1)
    shell.run("fabricate", "request.json", "-o", "/dev/null")
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_fabrication_that_is_stopped_leaves_nothing(tmp_path: Path, number: int) -> None:
    tensor = {"name": "t", "shape": [1 << 17, 1 << 17], "l": 1}
    (tmp_path / "huge.json").write_text(json.dumps({"seed": 1, "tensors": [tensor], "w": {"t": [1.0]}}))
    command = [sys.executable, "-m", "weightloom", "fabricate", "huge.json", "-o", "huge.safetensors"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        while not list(tmp_path.glob(".*.part")) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(SECONDS) == 128 + number
    finally:
        process.kill()
    assert [path.name for path in tmp_path.iterdir()] == ["huge.json"]


def test_wrong_settings_are_told(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "threads (WEIGHTLOOM_THREADS)" in shell.run("serve", "--threads", "0", exit_code=2)
    monkeypatch.setenv("WEIGHTLOOM_PORT", "99999")
    assert "port (WEIGHTLOOM_PORT)" in shell.run("serve", exit_code=2)


def test_names_are_shown_as_they_are(shell: Shell) -> None:
    model = {"name": "odd", "seed": 1, "tensors": [{"name": "a[/b]", "shape": [9], "l": 4}]}
    (shell.folder / "odd.json").write_text(json.dumps(model))
    assert "a[/b]" in shell.run("models", "create", "odd.json")
    assert "a[/b]" in shell.run("inspect", "odd")


def test_names_of_keys_and_files_are_shown_as_they_are(shell: Shell) -> None:
    assert "'a[/b]'" in shell.run("keys", "create", "a[/b]")
    assert "a[/b]" in shell.run("keys", "list")
    (shell.folder / "a[").mkdir()
    assert "a[/b]: " in shell.run("fabricate", "request.json", "-o", "a[/b]")


@pytest.mark.parametrize("name", ["", " ", "n" * 201, "a\nb", "a\x1b[31m", "\udcff"])
def test_keys_have_a_name_that_a_list_can_show(shell: Shell, name: str) -> None:
    assert "printable characters" in shell.run("keys", "create", name, exit_code=2)
    assert "no registry" in shell.run("keys", "list", exit_code=1)


@pytest.mark.parametrize("days", ["0", "nan", "inf", "-1", "1e7", "1e300"])
def test_keys_expire_at_a_time_that_there_is(shell: Shell, days: str) -> None:
    assert "--days" in shell.run("keys", "create", "n", "--days", days, exit_code=2)


def test_an_empty_variable_is_a_setting_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `WEIGHTLOOM_TLS_CERT=` in weightloom.env, which would otherwise be the folder "."."""
    from weightloom.settings import Settings

    for name in Settings.model_fields:
        monkeypatch.setenv(f"WEIGHTLOOM_{name.upper()}", "")
    assert Settings() == Settings.model_construct(
        **{n: f.get_default(call_default_factory=True) for n, f in Settings.model_fields.items()}
    )


def test_requests_that_make_no_sense_are_told(shell: Shell) -> None:
    assert "expected a JSON request, or --model" in shell.run("fabricate", "-o", "x", exit_code=1)
    assert "No such file" in shell.run("fabricate", "nope.json", "-o", "x", exit_code=1)
    (shell.folder / "bad.json").write_text("{")
    assert "not JSON" in shell.run("fabricate", "bad.json", "-o", "x", exit_code=1)
    assert "not JSON" in shell.run("inspect", "bad.json", exit_code=1)
    assert "weightloom 0" in shell.run("--version")


def test_serve_has_an_option_for_every_setting(shell: Shell) -> None:
    from weightloom.settings import Settings

    shown = shell.run("serve", "--help")
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')}" in shown
