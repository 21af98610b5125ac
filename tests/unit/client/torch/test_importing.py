"""A tinyBIG object, in memory or in a pickle, becomes a model that makes its very weights."""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from support.tinybig import a_head, a_model, tinybig
from weightloom.errors import InvalidFactors, InvalidInput, InvalidSpec, InvalidW
from weightloom_client import Client
from weightloom_client.torch import Imported, import_tinybig

Arrays = dict[str, npt.NDArray[Any]]


@dataclass
class World:
    """tinyBIG's classes, a model of two layers that has had a forward, and what pickle and torch.save make of it."""

    classes: Any
    model: Any
    pickles: dict[str, bytes]

    def function(self, **sizes: int) -> Any:
        return self.classes.random_matrix_hypernet_reconciliation(**sizes)

    def used(self, function: Any, **parts: Any) -> Any:
        """A head after a forward."""
        head = a_head(self.classes, function, **parts)
        head(torch.randn(3, head.m))
        return head


@pytest.fixture(autouse=True)
def torch_seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="module")
def world() -> World:
    with tinybig() as classes, torch.random.fork_rng():
        torch.manual_seed(0)
        model, saved = a_model(classes), io.BytesIO()
        torch.save(model, saved)
        pickles = {f"protocol {n}": pickle.dumps(model, protocol=n) for n in range(2, 6)}
        return World(classes, model, {"torch.save": saved.getvalue(), **pickles})


def fabricated(imported: Imported) -> Arrays:
    with Client.local() as client:
        imported.publish(client)
        return client.fabricate(imported.bundle)


def own_forward(head: Any, w: torch.Tensor, shape: tuple[int, int]) -> npt.NDArray[Any]:
    """tinyBIG's W of each channel: (channels, n, D), or (n, D) where there is one."""
    made = torch.stack([head.parameter_fabrication(*shape, channel[None]) for channel in w]).detach().numpy()
    return made[0] if len(made) == 1 else made


def check_heads(model: Any, served: Arrays) -> None:
    for name, D in (("layers.0.heads.0", 6), ("layers.0.heads.1", 6), ("layers.1.heads.0", 20)):
        head = model.get_submodule(name)
        theirs = own_forward(head, head.w, (head.n, D))
        assert served[f"{name}.w"].shape == theirs.shape
        assert np.abs(served[f"{name}.w"] - theirs).max() < 1e-5 * np.abs(theirs).max()


def test_a_model_in_memory_makes_its_own_weights(world: World) -> None:
    served = fabricated(import_tinybig(world.model, "demo/tinybig"))
    assert list(served) == list(world.model.state_dict())
    assert served["layers.0.heads.0.w"].shape == (2, 4, 6)
    assert served["layers.1.heads.0.w"].shape == (3, 20)
    check_heads(world.model, served)
    for name, value in world.model.state_dict().items():
        if not name.endswith(".w"):
            assert np.array_equal(served[name], value.numpy()), name


@pytest.mark.parametrize("made_by", ["torch.save", "protocol 2", "protocol 3", "protocol 4", "protocol 5"])
def test_a_pickle_makes_the_same_bundle_without_tinybig(world: World, made_by: str, tmp_path: Path) -> None:
    body = world.pickles[made_by]
    imported = import_tinybig(body, "demo/tinybig")
    assert imported.bundle == import_tinybig(world.model, "demo/tinybig").bundle
    check_heads(world.model, fabricated(imported))
    tmp_path.joinpath("model.pickle").write_bytes(body)
    for path in (tmp_path / "model.pickle", str(tmp_path / "model.pickle")):
        assert import_tinybig(path, "demo/tinybig").bundle == imported.bundle
    assert not [name for name in sys.modules if name.partition(".")[0] == "tinybig"]


def test_a_head_of_its_own_is_a_model_too(world: World) -> None:
    head = world.used(world.function(r=3, l=16), channel_num=2)
    served = fabricated(import_tinybig(head, "demo/head", metadata={"from": "tinybig 0.2.1"}))
    assert list(served) == ["w"]
    theirs = own_forward(head, head.w, (4, 6))
    assert np.abs(served["w"] - theirs).max() < 1e-5 * np.abs(theirs).max()


def test_a_grid_head_has_one_row_for_each_channel_that_comes_out(world: World) -> None:
    head = world.classes.grid_interdependence_head(h=4, w=4, in_channel=2, out_channel=3, p_h=1)
    head.parameter_fabrication, head.w = world.function(r=3, l=16), torch.nn.Parameter(torch.randn(1, 16))
    theirs = head.calculate_phi_w().detach().numpy()
    served = fabricated(import_tinybig(head, "demo/grid"))["w"]
    assert served.shape == theirs.shape
    assert len(served) == 3
    assert np.abs(served - theirs).max() < 1e-5 * np.abs(theirs).max()


@pytest.mark.parametrize(("w_shape", "shape"), [((16,), (4, 6)), ((1, 16), (4, 6)), ((5, 16), (5, 4, 6))])
def test_a_bare_function_takes_w_and_shape(world: World, w_shape: tuple[int, ...], shape: tuple[int, ...]) -> None:
    function, w = world.function(r=3, l=16), torch.randn(w_shape)
    theirs = torch.stack([function(4, 6, channel[None]) for channel in w.reshape(-1, 16)]).numpy().reshape(shape)
    served = fabricated(import_tinybig(function, "demo/function", w=w, shape=(4, 6)))["w"]
    assert served.shape == shape
    assert np.abs(served - theirs).max() < 1e-5 * np.abs(theirs).max()


def test_equal_factors_are_one_blob_whoever_holds_them(world: World) -> None:
    imported = import_tinybig(world.model, "demo/tinybig")
    digests = [t.factors_sha256 for t in imported.bundle.spec.tensors if t.kind == "imported_hypernet"]
    assert digests[0] == digests[1] != digests[2]
    assert [blob.digest for blob in imported.blobs] == [digests[0], digests[2]]
    one, other = (world.used(world.function(r=3, l=16)) for _ in range(2))
    for name in "PQST":
        setattr(other.parameter_fabrication, name, getattr(one.parameter_fabrication, name).clone())
    both = world.classes.layer(m=6, n=4, heads=[one, other])
    assert len(import_tinybig(both, "demo/both").blobs) == 1


def test_publishing_again_is_no_error(world: World, tmp_path: Path) -> None:
    imported = import_tinybig(world.model, "demo/tinybig")
    with Client.local(tmp_path) as client:
        first = imported.publish(client)
        assert imported.publish(client) == first
        assert first["digest"] == imported.bundle.spec.digest
    with Client.local(tmp_path) as client:
        check_heads(world.model, client.fabricate("demo/tinybig", dict(imported.bundle.w)))


def change(name: str, value: Callable[[torch.Tensor], Any]) -> Callable[[Any], None]:
    return lambda function: setattr(function, name, value(getattr(function, name)))


BAD_FACTORS = {
    "never used": ("P", InvalidInput, "None", change("P", lambda p: None)),
    "another l": ("P", InvalidInput, "shape [15, 3]", change("P", lambda p: p[1:])),
    "another r": ("Q", InvalidInput, "shape [128, 2]", change("Q", lambda q: q[:, 1:])),
    "another hidden_dim": ("S", InvalidInput, "shape [127, 3]", change("S", lambda s: s[1:])),
    "flat": ("T", InvalidInput, "shape [72]", change("T", lambda t: t.flatten())),
    "empty": ("T", InvalidInput, "shape [0, 3]", change("T", lambda t: t[:0])),
    "no multiple of n": ("T", InvalidInput, "23 rows", change("T", lambda t: t[1:])),
    "float64": ("Q", InvalidInput, "torch.float64", change("Q", lambda q: q.double())),
    "float16": ("Q", InvalidInput, "torch.float16", change("Q", lambda q: q.half())),
    "NaN": ("S", InvalidFactors, "nan", change("S", lambda s: s * torch.nan)),
    "too large": ("T", InvalidFactors, "numbers from", change("T", lambda t: t * 2**22)),
    "no r": ("r", InvalidInput, "None", change("r", lambda r: None)),
}


@pytest.mark.parametrize("what", BAD_FACTORS)
def test_factors_that_cannot_be_served_are_named(world: World, what: str) -> None:
    field, error, got, damage = BAD_FACTORS[what]
    head = world.used(world.function(r=3, l=16))
    damage(head.parameter_fabrication)
    with pytest.raises(error) as raised:
        import_tinybig(world.classes.layer(m=6, n=4, heads=[head]), "demo/bad")
    (violation,) = raised.value.violations
    assert violation.field == f"heads.0.parameter_fabrication.{field}"
    assert got in violation.got


def test_a_head_before_its_first_forward_has_nothing_to_import(world: World) -> None:
    with pytest.raises(InvalidInput, match=r"parameter_fabrication\.P: got None, expected .* first forward"):
        import_tinybig(a_head(world.classes, world.function(l=16)), "demo/bad")


def test_what_a_bare_function_lacks_is_named(world: World) -> None:
    function, w = world.function(r=3, l=16), torch.randn(1, 16)
    function(4, 6, w)
    for arguments, field in (({"shape": (4, 6)}, "w"), ({"w": w}, "shape"), ({"w": w, "shape": (24,)}, "shape")):
        with pytest.raises(InvalidInput, match=rf"^{field}: got "):
            import_tinybig(function, "demo/bad", **arguments)
    with pytest.raises(InvalidInput, match=r"^T: got 24 rows, expected 20, n D"):
        import_tinybig(function, "demo/bad", w=w, shape=(4, 5))
    for wrong in (torch.zeros(15), torch.full((16,), torch.inf)):
        with pytest.raises(InvalidW):
            import_tinybig(function, "demo/bad", w=wrong, shape=(4, 6))
    with pytest.raises(InvalidSpec):
        import_tinybig(function, "no name", w=w, shape=(4, 6))


def test_heads_bring_their_own_w_and_shape(world: World) -> None:
    for arguments, field in (({"w": torch.zeros(16)}, "w"), ({"shape": (4, 6)}, "shape")):
        with pytest.raises(InvalidInput, match=rf"^{field}: got a value"):
            import_tinybig(world.model, "demo/bad", **arguments)


def test_a_function_that_heads_of_other_sizes_share_has_no_weights_of_its_own(world: World) -> None:
    """T of the one fits the other by its number of rows, but tinyBIG would draw it anew."""
    shared = world.function(r=3, l=16)
    net = torch.nn.ModuleList([world.used(shared, m=12, n=4), world.used(shared, m=6, n=4)])
    with pytest.raises(InvalidInput, match=r"^1\.parameter_fabrication: got a function that is also 0\.parameter"):
        import_tinybig(net, "demo/bad")


def test_frozen_numbers_of_other_functions_are_refused_and_not_lost(world: World) -> None:
    other = world.used(world.classes.random_matrix_adaption_reconciliation(r=2))
    net = torch.nn.ModuleList([world.used(world.function(l=16)), other])
    with pytest.raises(InvalidInput, match="random_matrix_adaption_reconciliation with A"):
        import_tinybig(net, "demo/bad")
    function = world.function(l=16)
    with pytest.raises(InvalidInput, match=r"^0: got random_matrix_hypernet_reconciliation, expected none but a head"):
        import_tinybig(torch.nn.ModuleList([function]), "demo/bad")


def test_functions_without_factors_come_along_as_their_parameters(world: World) -> None:
    low_rank = world.used(world.classes.lorr_reconciliation(r=2))
    net = torch.nn.ModuleList([world.used(world.function(l=16)), low_rank])
    served = fabricated(import_tinybig(net, "demo/mixed"))
    assert np.array_equal(served["1.w"], low_rank.w.detach().numpy())


@pytest.mark.parametrize("source", [3, None, torch.zeros(2), {"w": torch.zeros(16)}])
def test_what_is_no_tinybig_object_is_refused(source: object) -> None:
    with pytest.raises(InvalidInput, match=r"^source: got "):
        import_tinybig(source, "demo/bad")


def test_a_module_without_such_a_function_is_sent_to_model_spec() -> None:
    with pytest.raises(InvalidInput, match="model_spec"):
        import_tinybig(torch.nn.Linear(2, 3), "demo/bad")


def test_a_file_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        import_tinybig(tmp_path / "none", "demo/bad")


def test_a_pickle_that_is_cut_anywhere_is_refused_as_invalid_input(world: World) -> None:
    """So that a program needs to catch nothing else."""
    for body in world.pickles.values():
        for length in {*range(0, len(body), 97), len(body) - 1}:
            with pytest.raises(InvalidInput):
                import_tinybig(body[:length], "demo/cut")
