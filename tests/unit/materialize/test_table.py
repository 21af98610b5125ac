"""Tables: what a row may say, in JSON lines and in Parquet, and what becomes of bad ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from support.buffered_fs import BufferedFiles
from support.tables import MODEL, row, w_of, write_lines
from weightloom.errors import InvalidInput, MalformedBody, WeightloomError
from weightloom.materialize import table
from weightloom.materialize.table import Row, checked_file, open_table
from weightloom.requests import FabricateRequest, request_to_safetensors


def read(path: Path | str, default: str | None = None) -> list[Any]:
    with open_table(str(path), default) as rows:
        return list(rows.rows)


@pytest.mark.parametrize("file", ["a", "a/b.safetensors", ".hidden", "é/ü", "..a/b.."])
def test_a_file_may_lie_anywhere_under_the_target(file: str) -> None:
    assert checked_file(file) == file


@pytest.mark.parametrize(
    "file",
    ["", "/etc/passwd", "../a", "a/../b", "a/.", "./a", "a//b", "a/", "a\\b", "a\0", "a\nb",
     ".weightloom/x", ".WeightLoom/x", ".weightloom./x", "x" * 1025, "\ud800", None, 7],
)  # fmt: skip
def test_a_file_lies_nowhere_else(file: object) -> None:
    with pytest.raises(InvalidInput, match="file: got"):
        checked_file(file)


def test_lines_are_read_one_by_one_and_bad_ones_are_told_with_their_numbers(tmp_path: Path) -> None:
    lines = [row(1), "{", "", "[]", row(2), {"file": "x", "w": {}}, {"file": "y", "seed": 1}, row(3, file="../z")]
    path = write_lines(tmp_path / "t.jsonl", lines)
    rows = read(path)
    assert [one.number if isinstance(one, Row) else one[:2] for one in rows] == [
        1, (2, ""), (4, ""), 5, (6, "x"), 7, (8, ""),
    ]  # fmt: skip
    assert rows[5].model is None
    with open_table(str(path), None) as opened:
        assert opened.total == 7


def test_windows_ends_lines_and_begins_files_as_it_does(tmp_path: Path) -> None:
    lines = [json.dumps(row(1)).encode(), json.dumps(row(2)).encode()]
    (tmp_path / "t.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\r\n\r\n".join(lines) + b"\r\n")
    rows = read(tmp_path / "t.jsonl")
    assert [one.number for one in rows if isinstance(one, Row)] == [1, 3]
    assert json.loads(rows[0].body) == row(1)


def test_rows_are_counted_without_holding_long_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "PIECE_BYTES", 7)
    for text, total in (("", 0), ("\n \n", 0), ("x" * 50, 1), ("x" * 50 + "\n\ny\n" + " " * 20 + "z", 3)):
        (tmp_path / "t.jsonl").write_text(text)
        with open_table(str(tmp_path / "t.jsonl"), None) as rows:
            assert rows.total == total


def test_a_line_that_is_too_long_is_one_bad_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "MAX_LINE_BYTES", 1000)
    rows = read(write_lines(tmp_path / "t.jsonl", [row(1), row(2, dtype="x" * 5000), row(3)]))
    assert [one.number if isinstance(one, Row) else one[0] for one in rows] == [1, 2, 3]
    assert "over 1000 bytes" in str(rows[1][2])


def test_the_only_model_is_that_of_rows_that_name_none(tmp_path: Path) -> None:
    lines = [{"file": "a", "w": {}}, row(1, model="other")]
    assert [one.model for one in read(write_lines(tmp_path / "t.jsonl", lines), "demo")] == ["demo", "other"]


def test_a_table_has_a_known_suffix(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"\.jsonl, \.ndjson, \.parquet"):
        read(tmp_path / "t.csv")


def columns(form: str, numbers: list[int]) -> dict[str, Any]:
    """The w's of some rows in one of the forms that Parquet has for them."""
    floats, w = pa.list_(pa.float32()), [w_of(number) for number in numbers]
    if form == "struct":
        return {"w": pa.array(w, pa.struct([("a", floats), ("b", floats)]))}
    if form == "map":
        return {"w": pa.array([list(one.items()) for one in w], pa.map_(pa.string(), floats))}
    if form == "safetensors":
        bodies = (
            request_to_safetensors(FabricateRequest(MODEL, {k: np.array(v) for k, v in one.items()})) for one in w
        )
        return {"w_safetensors": [body for body, _ in bodies]}
    fixed = pa.array([one["a"] for one in w], pa.list_(pa.float32(), 4))
    return {"w.a": fixed, "w.b": pa.array([one["b"] for one in w], pa.list_(pa.float64()))}


@pytest.mark.parametrize("form", ["struct", "map", "columns", "safetensors"])
def test_parquet_has_ws_in_columns_or_as_safetensors(form: str, tmp_path: Path) -> None:
    numbers = [3, 1, 2]
    made = {"file": [f"{number}" for number in numbers]} | columns(form, numbers)
    if form != "safetensors":
        made |= {"model": ["demo"] * 3, "dtype": ["BF16", None, "F16"], "tensors": [None, ["a"], None]}
        made |= {"rows": pa.array([[("a", [1, 5])], None, None], pa.map_(pa.string(), pa.list_(pa.int64())))}
    parquet.write_table(pa.table(made), tmp_path / "t.parquet")
    with open_table(str(tmp_path / "t.parquet"), None) as opened:
        assert opened.total == 3
        rows = list(opened.rows)
    for one, number in zip(rows, numbers, strict=True):
        assert one.file == f"{number}"
        assert {name: values.tolist() for name, values in one.body.w.items()} == w_of(number)
    first, second, _ = (one.body for one in rows)
    if form == "safetensors":
        assert rows[0].model is None
        assert first.model == MODEL
    else:
        assert (first.dtype, dict(first.rows), second.tensors) == ("BF16", {"a": (1, 5)}, ["a"])


def test_parquet_has_batches_of_w_and_ws_that_are_not_there(tmp_path: Path) -> None:
    made = {"file": ["x", "y"], "w.a": [[[1.0, 2.0], [3.0, 4.0]], None], "w.b": [None, [[5, 6]]]}
    parquet.write_table(pa.table(made), tmp_path / "t.parquet")
    first, second = read(tmp_path / "t.parquet", "demo")
    assert {name: values.tolist() for name, values in first.body.w.items()} == {"a": [[1, 2], [3, 4]]}
    assert {name: values.tolist() for name, values in second.body.w.items()} == {"b": [[5, 6]]}


@pytest.mark.parametrize(
    ("column", "cell", "told"),
    [
        ("w", [1.0], "a struct or map"),
        ("w.a", "text", "a list of numbers"),
        ("w.a", ["text"], "a list of numbers"),
        ("w.a", [[1.0], [1.0, 2.0]], "lists of different lengths"),
        ("w_safetensors", b"x", "header's length"),
        ("w_safetensors", "x", "bytes of a safetensors file"),
        ("dtype", "F64", "F32, F16, BF16"),
        ("tensors", "a", "a list of tensors' names"),
        ("rows", [1, 2], "two integers"),
        ("rows", {"a": [1, 2, 3]}, "two integers"),
        ("model", 7, "a model's name"),
        ("file", "/x", "a relative path"),
    ],
)
def test_a_bad_cell_is_told_by_its_field(column: str, cell: object, told: str, tmp_path: Path) -> None:
    made = {"file": ["x"], "model": ["demo"]} | {column: pa.array([cell])}
    parquet.write_table(pa.table(made), tmp_path / "t.parquet")
    ((number, _, error),) = read(tmp_path / "t.parquet")
    assert number == 1
    assert isinstance(error, WeightloomError)
    assert told in str(error)


def test_parquet_with_unknown_columns_or_none_at_all_is_refused(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"file": ["x"], "dtyp": ["F32"]}), tmp_path / "t.parquet")
    with pytest.raises(InvalidInput, match="'dtyp'"):
        read(tmp_path / "t.parquet")
    parquet.write_table(pa.table({"model": ["x"]}), tmp_path / "t.parquet")
    with pytest.raises(InvalidInput, match="no column 'file'"):
        read(tmp_path / "t.parquet")
    (tmp_path / "t.parquet").write_text(json.dumps(row(1)))
    with pytest.raises(MalformedBody, match="no Parquet"):
        read(tmp_path / "t.parquet")


@pytest.mark.parametrize("column", ["file", "model", "dtype"])
def test_text_that_is_not_utf_8_is_one_bad_row(column: str, tmp_path: Path) -> None:
    texts = pa.array([b"\xff", b"BF16"], pa.binary()).view(pa.string())
    made = {"file": ["x", "y"], "model": ["demo"] * 2} | {column: texts}
    parquet.write_table(pa.table(made), tmp_path / "t.parquet")
    bad, good = read(tmp_path / "t.parquet")
    assert "text in UTF-8" in str(bad[2])
    assert isinstance(good, Row)


def test_parquet_with_two_columns_of_a_name_or_a_damaged_footer_is_refused(tmp_path: Path) -> None:
    made = pa.Table.from_arrays([pa.array(["x"]), pa.array([[1.0]]), pa.array([[2.0]])], names=["file", "w.a", "w.a"])
    parquet.write_table(made, tmp_path / "t.parquet")
    with pytest.raises(InvalidInput, match=r"two columns 'w\.a'"):
        read(tmp_path / "t.parquet")
    data = bytearray((tmp_path / "t.parquet").read_bytes())
    size = int.from_bytes(data[-8:-4], "little")
    data[-8 - size : -8] = b"x" * size
    (tmp_path / "t.parquet").write_bytes(data)
    with pytest.raises(MalformedBody, match="no Parquet"):
        read(tmp_path / "t.parquet")


def test_damage_in_the_middle_of_parquet_is_told(tmp_path: Path) -> None:
    made = {"file": [f"{i}" for i in range(5000)], "w.a": np.random.default_rng(0).standard_normal((5000, 4)).tolist()}
    parquet.write_table(pa.table(made), tmp_path / "t.parquet", row_group_size=1000)
    data = bytearray((tmp_path / "t.parquet").read_bytes())
    half = len(data) // 2
    data[half : half + 20000] = b"x" * 20000
    (tmp_path / "t.parquet").write_bytes(data)
    with pytest.raises(MalformedBody, match="cannot be read on"):
        read(tmp_path / "t.parquet", "demo")


def test_a_table_may_lie_at_a_url(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "t.jsonl", [row(1), row(2)])
    with open_table(f"local://{path}", None) as rows:
        assert [one.number for one in rows.rows if isinstance(one, Row)] == [1, 2]


def test_a_table_may_lie_in_an_object_store(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(json.dumps(row(number)) + "\n" for number in range(2000))
    monkeypatch.setattr(BufferedFiles, "files", {"bucket/t.jsonl": text.encode()})
    with open_table("buffered://bucket/t.jsonl", None) as rows:
        assert rows.total is None
        assert [one.body for one in rows.rows if isinstance(one, Row)] == text.encode().splitlines(keepends=True)


@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet"])
@pytest.mark.parametrize("error", [FileNotFoundError("bucket/t"), type("NoCredentialsError", (Exception,), {})("none")])
def test_what_a_url_raises_is_told_with_it(name: str, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(BufferedFiles, "_open", fail)
    with pytest.raises(OSError, match=rf"table buffered://bucket/{name} cannot be read: {type(error).__name__}: "):
        read(f"buffered://bucket/{name}")


def test_a_url_that_fails_under_way_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(json.dumps(row(number)) + "\n" for number in range(20_000))
    monkeypatch.setattr(BufferedFiles, "files", {"bucket/t.jsonl": text.encode()})
    with open_table("buffered://bucket/t.jsonl", None) as rows:
        next(rows.rows)
        monkeypatch.setattr(BufferedFiles, "files", {})
        with pytest.raises(OSError, match=r"bucket/t\.jsonl cannot be read: KeyError: "):
            list(rows.rows)
