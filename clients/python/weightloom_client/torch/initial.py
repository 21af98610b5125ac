"""Where training starts: a w and a scale from which W has the spread that a layer's usual initialisation has.

Write the formula as W_i = sum_k T_ik h_k with h = scale * sigmoid(b) S and b = (w P) Q^T, all factors standard normal.

- W_i given h is normal with variance |h|^2: T's rows are independent of h. So W's standard deviation is |h|.
- h_k given b is normal with variance scale^2 * sum_m sigmoid(b_m)^2.
- b_m given w is, for many r, about normal with variance r |w|^2. With w_i ~ N(0, 1 / (l r)) that is 1: the sigmoid is
  bent but not saturated, and all of w can still move.
- For b ~ N(0, 1): E sigmoid(b)^2 = Var sigmoid(b) + 1/4 = 0.29338. (h is not zero at w = 0: it is half of S's sums.)

Together E|h|^2 = scale^2 * r * hidden_dim * 0.29338, which ``scale_for`` solves for the scale. |h|^2 of one draw of the
factors lies a relative sqrt(2 / r) around that, too far for a small r; ``started`` therefore divides by the |h| that
its very factors and w give.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from weightloom.errors import InvalidInput
from weightloom.fabric.kinds import RandomMatrixHypernet
from weightloom.fabric.streams import factor_stream

from weightloom_client.torch.checks import checked_seed, checked_spec
from weightloom_client.torch.kept import KEPT

__all__ = ["initial_w", "kaiming_std", "scale_for", "started", "usual_std"]

MEAN_SQUARE_OF_SIGMOID = 0.2933790  # over the standard normal distribution


def scale_for(l: int, r: int, hidden_dim: int, target_std: float) -> float:
    """The scale at which W has standard deviation ``target_std`` on average over seeds, for w_i ~ N(0, 1 / (l r)).

    l plays no part beyond that distribution of w. For one given seed use ``started``.
    """
    if min(l, r, hidden_dim) < 1:
        raise InvalidInput.at("l, r, hidden_dim", (l, r, hidden_dim), "integers of at least 1")
    return target_std / math.sqrt(r * hidden_dim * MEAN_SQUARE_OF_SIGMOID)


def usual_std(module: nn.Module, shape: tuple[int, ...]) -> float:
    """The standard deviation that ``module`` starts its own weight of this shape with; see ``fabricate_module``."""
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return 1.0
    if isinstance(module, nn.MultiheadAttention):  # Xavier, for its projections and the biases of k and v
        return math.sqrt(2.0 / ((shape[0] + shape[1]) * math.prod(shape[2:])))
    if isinstance(module, nn.RNNCellBase):
        return 1.0 / math.sqrt(3.0 * module.hidden_size)
    return kaiming_std(shape[:2] if isinstance(module, nn.Bilinear) else shape)


def kaiming_std(shape: tuple[int, ...]) -> float:
    """1 / sqrt(3 fan_in): what kaiming_uniform(a=sqrt(5)), nn.Linear's and nn.Conv's own start, gives a weight."""
    return 1.0 / math.sqrt(3.0 * max(1, math.prod(shape[1:])))


def initial_w(name: str, seed: int, l: int, r: int) -> torch.Tensor:
    """w_i ~ N(0, 1 / (l r)), float32 (l,): from a stream of its own beside the factors', so a seed gives one w."""
    normals = KEPT.backend.normals(factor_stream(checked_seed(seed), name, "w"), 0, l).astype(np.float64)
    return torch.from_numpy((normals / math.sqrt(l * r)).astype(np.float32))


def started(spec: RandomMatrixHypernet, seed: int, target_std: float) -> tuple[RandomMatrixHypernet, torch.Tensor]:
    """The spec with the scale at which W has the standard deviation ``target_std``, and the w for it, float32 (l,).

    Both follow from spec, seed and ``target_std`` alone, to the last bit on any machine, and torch's generator has no
    part in it: a net that is built again from the same arguments makes the same W of the same w. W is as near to the
    target as numel draws of T allow. Raises InvalidInput for a target that is not finite and above 0 (a W of zeros gets
    no gradient) and for a seed beyond 64 bits, InvalidSpec where W could leave float32's range.
    """
    if not 0.0 < target_std < math.inf:
        raise InvalidInput.at(f"standard deviation of {spec.name!r}", target_std, "a finite number above 0")
    w = initial_w(spec.name, seed, spec.l, spec.r)
    factors = spec.factors(checked_seed(seed))
    h = KEPT.backend.hidden(factors, w.numpy()[None], 1.0, KEPT.pqs(factors))[0]
    return checked_spec(**spec.model_dump() | {"scale": target_std / _norm(h)}), w


def _norm(h: npt.NDArray[np.float32]) -> float:
    """|h| with one rounding of the sum, in whatever order the machine would add."""
    return math.sqrt(math.fsum(float(x) ** 2 for x in h))
