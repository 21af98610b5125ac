"""The bounded cache, and the layouts that are kept in one."""

from __future__ import annotations

import numpy as np
from weightloom.fabric import DType, ModelSpec, VirtualFile
from weightloom.fabric.cache import BoundedCache


def test_what_was_used_longest_ago_goes_first() -> None:
    cache: BoundedCache[str, str] = BoundedCache(6, len)
    for key in ("aa", "bb", "cc"):
        cache.put(key, key)
    cache.get("aa")
    cache.put("dd", "dd")
    assert [cache.get(key) for key in ("aa", "bb", "cc", "dd")] == ["aa", None, "cc", "dd"]


def test_what_is_too_heavy_is_not_kept_and_drives_nothing_out() -> None:
    cache: BoundedCache[str, str] = BoundedCache(3, len)
    cache.put("a", "a")
    cache.put("long", "long")
    assert (cache.get("a"), cache.get("long")) == ("a", None)


def test_files_of_one_selection_share_their_layout_and_others_do_not() -> None:
    tensors = [{"name": "t", "shape": [4, 3], "l": 2}, {"name": "u", "shape": [2], "kind": "identity"}]
    spec, other = (ModelSpec.from_value({"name": "m", "seed": seed, "tensors": tensors}) for seed in (1, 2))
    w = {"t": np.ones(2), "u": np.ones(2)}
    first = VirtualFile(spec, w)
    assert VirtualFile(spec, w | {"t": np.zeros(2)}).layout is first.layout
    different = [
        VirtualFile(other, w),
        VirtualFile(spec, w, dtype=DType.F16),
        VirtualFile(spec, w, tensors=["t"]),
        VirtualFile(spec, w, rows={"t": (0, 2)}),
        VirtualFile(spec, w, rows={"t": (2, 4)}),
        VirtualFile(spec, w | {"t": np.ones((1, 2))}),
        VirtualFile(spec, w | {"t": np.ones((3, 2))}),
    ]
    assert len({id(file.layout) for file in [first, *different]}) == 8
