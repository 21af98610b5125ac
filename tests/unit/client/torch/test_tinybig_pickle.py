"""A pickle is a program. Of one that is read as tinyBIG's, nothing runs and nothing stays."""

from __future__ import annotations

import builtins
import collections
import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from weightloom.errors import InvalidInput
from weightloom_client.torch import import_tinybig


class Evil:
    """What is pickled as a call."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        function, *arguments = self.call
        return function, tuple(arguments)


def saved(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def refused(body: bytes) -> str:
    with pytest.raises(InvalidInput) as raised:
        import_tinybig(body, "demo/evil")
    (violation,) = raised.value.violations
    assert violation.field == "source"
    return violation.got


@pytest.mark.parametrize("dump", [pickle.dumps, lambda value: pickle.dumps(value, 0), saved])
def test_a_call_in_a_pickle_is_refused_by_name_and_never_made(dump: Any, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    assert "posix.mkdir" in refused(dump({"P": Evil(os.mkdir, str(trace))}))
    assert not trace.exists()


@pytest.mark.parametrize(
    "call", [(eval, "1"), (exec, "1"), (getattr, 1, "real"), (builtins.__import__, "os"), (torch.load, "file")]
)
def test_names_that_lead_anywhere_are_refused(call: tuple[Any, ...]) -> None:
    module = "builtins" if call[0] is not torch.load else "torch.serialization"
    assert f"a pickle that names {module}.{call[0].__name__}" in refused(pickle.dumps(Evil(*call)))


def test_a_pickle_within_a_pickle_is_refused_too(tmp_path: Path) -> None:
    """Plain pickles of tensors call torch.storage._load_from_bytes, which runs whatever its bytes say."""
    trace = tmp_path / "trace"
    for inner in (saved(Evil(os.mkdir, str(trace))), pickle.dumps(Evil(os.mkdir, str(trace)))):
        refused(pickle.dumps(Evil(torch.storage._load_from_bytes, inner)))
    assert not trace.exists()


@pytest.mark.parametrize("name", ["torch\ndevice", "torch\nSize", "torch\nfloat32", "collections\nOrderedDict"])
@pytest.mark.parametrize("state", [b"}S'trace'\nI1\nsb.", b"N}S'trace'\nI1\ns\x86b."])
def test_what_a_pickle_may_name_it_may_not_change(name: str, state: bytes) -> None:
    refused(b"c" + name.encode() + b"\n" + state)
    assert not any(hasattr(it, "trace") for it in (torch.device, torch.Size, torch.float32, collections.OrderedDict))


@pytest.mark.parametrize(
    "name", ["_utils\n_rebuild_tensor_v2", "_utils\n_rebuild_parameter", "storage\n_load_from_bytes"]
)
def test_nor_the_functions_that_make_tensors(name: str) -> None:
    refused(f"ctorch.{name}\n".encode() + b"}S'trace'\nI1\nsb.")
    module, function = name.split("\n")
    assert not hasattr(getattr(getattr(torch, module), function), "trace")


def test_a_tensor_that_reaches_beyond_its_storage_is_refused() -> None:
    """Torch itself would enlarge the storage by whatever lies in memory."""
    storage = torch.zeros(4).untyped_storage()
    typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)  # type: ignore[no-untyped-call]
    call: tuple[Any, ...] = (torch._utils._rebuild_tensor_v2, typed, 0, (1000,), (1,), False, None)
    assert "out of bounds" in refused(pickle.dumps(Evil(*call)))


def test_an_archive_that_is_none_of_torch_is_refused() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("letter.txt", "hello")
    assert "an archive without the data.pkl of torch.save" in refused(file.getvalue())


def test_modules_that_contain_themselves_are_refused() -> None:
    module: Any = torch.nn.Module()
    module._modules["again"] = module
    assert "modules within modules" in refused(pickle.dumps(module))


def test_numbers_of_the_other_byte_order_are_refused() -> None:
    file = io.BytesIO(saved(torch.nn.Linear(2, 3)))
    changed = io.BytesIO()
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(changed, "w") as other:
        for name in archive.namelist():
            other.writestr(name, b"big" if name.endswith("/byteorder") else archive.read(name))
    assert "big-endian" in refused(changed.getvalue())
