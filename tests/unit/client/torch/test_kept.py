"""Factors that training keeps stay within their budget of bytes, and what is in use stays."""

from __future__ import annotations

import torch
from weightloom.fabric.factors import ResidentT
from weightloom.fabric.kinds import RandomMatrixHypernet
from weightloom_client.torch import set_keep_t_bytes, weave
from weightloom_client.torch.kept import KEPT, FactorCache


def spec_of(*shape: int, r: int = 3) -> RandomMatrixHypernet:
    return RandomMatrixHypernet(name="a.weight", shape=shape, l=16, r=r, hidden_dim=24)


def test_t_is_kept_within_the_budget_and_found_again() -> None:
    cache = FactorCache(100_000)
    small, large = (spec_of(numel, 1).factors(1) for numel in (2000, 20_000))
    for factors in (small, large):
        cache.expect(factors)
    assert cache.t(small) is not None
    assert cache.t(large) is None
    assert 0 < cache.held_bytes <= 100_000
    cache.limit(0)
    assert cache.t(small) is None
    assert cache.held_bytes == 0


def test_a_net_that_is_too_large_keeps_what_fits_and_does_not_go_round_in_circles() -> None:
    layers = [spec_of(2000, 1, r=r).factors(1) for r in (3, 4, 5)]
    cache = FactorCache(80_000)
    found = []
    for _ in range(5):
        for factors in layers:
            cache.expect(factors)
            found.append(cache.t(factors))
    assert found[0] is not None
    assert all(t is found[0] for t in found[::3])


def test_what_nobody_uses_any_more_makes_room() -> None:
    old, new = (spec_of(2000, 1, r=r).factors(1) for r in (3, 5))
    cache = FactorCache(50_000)
    cache.expect(old)
    for _ in range(2000):
        cache.expect(new)
    assert cache.t(old) is None
    assert cache.t(new) is not None


def test_a_net_of_very_many_layers_keeps_what_fits_too() -> None:
    layers = [RandomMatrixHypernet(name=f"{i}", shape=(4,), l=1, r=1, hidden_dim=1).factors(1) for i in range(700)]
    cache = FactorCache(300 * ResidentT.size_of(layers[0]))

    def step() -> list[ResidentT | None]:
        for factors in layers:  # a forward and a backward
            cache.expect(factors)
            cache.pqs(factors)
        for factors in reversed(layers):
            cache.pqs(factors)
        return [cache.t(factors) for factors in layers]

    first = step()
    assert sum(t is not None for t in first) > 100
    for _ in range(3):
        assert all(one is other for one, other in zip(step(), first, strict=True))


def test_the_process_budget_can_be_set() -> None:
    spec = spec_of(40, 5)
    set_keep_t_bytes(0)
    try:
        weave(torch.zeros(16), spec, 1)
        assert KEPT.held_bytes == 0
    finally:
        set_keep_t_bytes(64 << 20)
    weave(torch.zeros(16), spec, 1)
    assert KEPT.held_bytes > 0
