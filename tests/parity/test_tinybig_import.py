"""A tinyBIG model is served unchanged: by a server over REST and gRPC as by no server, the same bits."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from support.server import Server
from support.tinybig import a_model, save_a_model, tinybig
from weightloom_client import Client
from weightloom_client.torch import Imported, import_tinybig

NAME = "parity/tinybig"
HEADS = {"layers.0.heads.0": (4, 6), "layers.0.heads.1": (4, 6), "layers.1.heads.0": (3, 20)}


@pytest.fixture(scope="module")
def model() -> Any:
    with tinybig() as classes, torch.random.fork_rng():
        torch.manual_seed(0)
        return a_model(classes)


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Imported:
    """From a file as torch.save writes it, of the same model."""
    path = tmp_path_factory.mktemp("tinybig") / "model.pt"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_a_model(path)
    return import_tinybig(path, NAME)


@pytest.fixture(params=["http", "grpc"])
def client(request: pytest.FixtureRequest, server: Server, imported: Imported) -> Iterator[Client]:
    url = server.url if request.param == "http" else f"grpc://{server.grpc_target}"
    with Client(url, verify="full") as client:
        assert imported.publish(client)["digest"] == imported.bundle.spec.digest
        yield client
        client.delete_model(NAME)


def local_file(imported: Imported) -> bytes:
    file = io.BytesIO()
    with Client.local() as client:
        imported.publish(client)
        client.fabricate_to(file, imported.bundle)
    return file.getvalue()


def test_a_server_makes_tinybigs_own_weights_of_its_factors(client: Client, imported: Imported, model: Any) -> None:
    served = client.fabricate(NAME, dict(imported.bundle.w))
    for name, (n, columns) in HEADS.items():
        head = model.get_submodule(name)
        theirs = torch.stack([head.parameter_fabrication(n, columns, w[None]) for w in head.w]).detach().numpy()
        ours = served[f"{name}.w"].reshape(theirs.shape)
        assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()


def test_the_bits_are_those_that_are_made_without_a_server(client: Client, imported: Imported) -> None:
    file = io.BytesIO()
    client.fabricate_to(file, NAME, dict(imported.bundle.w))
    assert file.getvalue() == local_file(imported)


def test_publishing_what_is_there_already_is_no_error(client: Client, imported: Imported) -> None:
    assert imported.publish(client) == client.get_model(NAME)


def test_tinybigs_model_computes_the_same_with_the_served_weights(
    client: Client, imported: Imported, model: Any
) -> None:
    """The first head by hand: mean over its channels of x W^T + b, plus the remainder."""
    head, x = model.get_submodule("layers.0.heads.0"), torch.randn(5, 6)
    served = {name: torch.tensor(value) for name, value in client.fabricate(imported.bundle).items()}
    weights, bias, rest, rest_bias = (
        served[f"layers.0.heads.0.{name}"] for name in ("w", "b", "w_remainder", "b_remainder")
    )
    ours = torch.stack([x @ weight.T + bias for weight in weights]).mean(0) + x @ rest.T + rest_bias
    assert torch.allclose(ours, head(x), rtol=1e-4, atol=1e-3)
