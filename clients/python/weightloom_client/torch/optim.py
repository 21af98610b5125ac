"""Learning rates for nets of which some weights are fabricated."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from torch import nn

from weightloom_client.torch.parametrization import fabricated_in

__all__ = ["param_groups"]


def param_groups(net: nn.Module, *, lr: float, step: float = 0.3) -> list[dict[str, Any]]:
    """Groups for an optimizer: each w with a learning rate that fits its size, all other parameters with ``lr``.

    Adam moves every number by about its learning rate, whatever the gradient. A w begins with numbers of some
    1 / sqrt(l r); steps that are large beside this drive the sigmoids to 0 and 1, from where they hardly come back. So
    a w's rate is step / sqrt(l r): docs/training.md has what came of other steps.
    """
    others = dict.fromkeys(net.parameters())  # a dict keeps the order
    groups = []
    for rate, w in _rates(net, step):
        if w in others:  # it is tied where it is there no more
            del others[w]
            groups.append({"params": [w], "lr": rate})
    return [*groups, {"params": [*others], "lr": lr}]


def _rates(net: nn.Module, step: float) -> Iterator[tuple[float, nn.Parameter]]:
    for module in net.modules():
        for _, fabricated, w in fabricated_in(module):
            yield step / math.sqrt(fabricated.spec.l * fabricated.spec.r), w
