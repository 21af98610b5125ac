"""The programs in examples/ run as a reader would run them, only shorter, and show what they promise."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.server import Server
from weightloom_client import Client

pytestmark = pytest.mark.timeout(1200)  # they train: minutes on a busy machine
EXAMPLES = Path(__file__).parents[2] / "examples"


def run(program: str, folder: Path, *options: object) -> str:
    """What a program of examples/ prints that writes its files to ``folder``."""
    return python(folder, EXAMPLES / program, *options)


def python(folder: Path, *arguments: object) -> str:
    """What Python prints, run in ``folder``."""
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def table(text: str) -> list[list[str]]:
    """The cells of a markdown table below its head."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


def number(text: str) -> float:
    """The first number of a text, without its commas."""
    return float(re.search(r"[\d,.]+", text)[0].replace(",", ""))  # type: ignore[index]


@pytest.fixture(scope="module")
def left_clean(server: Server) -> Iterator[Server]:
    """The server, from which the models of the examples are taken away again."""
    yield server
    with Client(server.url) as client:
        for model in [*client.list_models()]:
            if model["name"].startswith("examples/"):
                client.delete_model(model["name"])


def test_a_woven_net_learns_the_digits_from_a_few_hundred_numbers(tmp_path: Path) -> None:
    shown = run("digits/train.py", tmp_path, "--nets", "mlp", "--sizes", "16,16,64", "128,128,512", "--epochs", 8)
    dense, small, large = ([number(cell) for cell in row[2:]] for row in table(shown))
    assert dense[0] == 64 * 128 + 128 + 128 * 10 + 10
    assert [small[0], large[0]] == [2 * 16 + 138, 2 * 128 + 138]
    assert large[1] < dense[1] / 10
    assert small[2] < large[2] < dense[2]
    assert large[2] > 70


def test_the_effect_of_a_size_is_measured_over_several_seeds(tmp_path: Path) -> None:
    shown = run("digits/effect.py", tmp_path, "--vary", "l", "--seeds", 2, "--epochs", 4)
    dense, middle, least, *others = table(shown)
    assert dense[0] == "dense"
    assert (middle[0], least[0], len(others)) == ("128", "**8**", 2)
    assert number(least[6]) < number(middle[6]) < number(dense[6])
    assert all(re.fullmatch(r"[\d.]+% ± [\d.]+%", row[6]) for row in (dense, middle, least))


def test_digits_are_published_and_fetched_everywhere_with_the_same_bits(left_clean: Server, tmp_path: Path) -> None:
    shown = run("digits/publish.py", tmp_path, "--url", left_clean.url, "--epochs", 6)
    accuracy = re.search(r"trained: ([\d.]+%)", shown)[1]  # type: ignore[index]
    assert number(accuracy) > 80
    assert (tmp_path / "digits.bundle").stat().st_size < 5000

    grpc = f"grpc://{left_clean.grpc_target}"
    lines = run("digits/fetch.py", tmp_path, "--url", left_clean.url, "--grpc", grpc).splitlines()
    promise = f"{accuracy}, every weight and every logit as trained, to the bit"
    assert lines == [f"{source}: {promise}" for source in (left_clean.url, grpc, "here")]


def test_a_w_each_serves_people_better_and_is_fetched_with_the_same_bits(left_clean: Server, tmp_path: Path) -> None:
    shown = run("personalised/publish.py", tmp_path, "--url", left_clean.url, "--people", 20, "--steps", 50)
    before, dense, after = (number(re.findall(r": ([\d.]+)%", line)[0]) for line in shown.splitlines()[:3])
    assert before + 5 < after < dense
    people = np.load(tmp_path / "personalised/people.npy")
    assert people.shape == (20, 128)
    assert people.dtype == np.float32

    one_by_one, together = run("personalised/fetch.py", tmp_path, "--url", left_clean.url).splitlines()
    for line in (one_by_one, together):
        assert line.endswith(f"{after}%, every weight of 20 people as trained, to the bit")

    people[1, 3] += 0.5
    np.save(tmp_path / "personalised/people.npy", people)
    with pytest.raises(AssertionError, match="array_equal"):  # so the check can fail
        run("personalised/fetch.py", tmp_path, "--url", left_clean.url)


def test_the_program_of_the_training_page_works(tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", (EXAMPLES.parent / "docs/training.md").read_text(), re.DOTALL)
    counts = "\nprint([len(group['params']) for group in optimizer.param_groups])"
    assert python(tmp_path, "-c", program + counts) == "[1, 1, 2]\n"
