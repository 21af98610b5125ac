"""tinyBIG's ``random_matrix_hypernet_reconciliation`` with factors that last: they are drawn from a seed and a name."""

# ruff: noqa: N801, N802, N803 (tinyBIG's names)
from __future__ import annotations

import json
import operator
from typing import Any

import numpy as np
import torch
from torch import nn
from weightloom.errors import InvalidInput
from weightloom.fabric.kinds import RandomMatrixHypernet
from weightloom.fabric.streams import FactorStream

from weightloom_client.torch.checks import checked_seed, checked_spec
from weightloom_client.torch.functional import weave
from weightloom_client.torch.kept import KEPT

__all__ = ["random_matrix_hypernet_reconciliation"]

SIZES = ("r", "l", "hidden_dim")


class random_matrix_hypernet_reconciliation(nn.Module):
    """Takes the place of tinyBIG's class of this name (tinybig 0.2.1) and does not need tinyBIG.

    ``name`` and ``seed`` decide P, Q, S and T: give each layer a name of its own, the name of its tensor on the server.
    The state_dict holds both, so that a saved net makes its W again. W of a larger n begins with that of a smaller
    one, and neither changes the other. Raises InvalidInput for a seed that is no integer of 64 bits.
    """

    def __init__(
        self,
        name: str = "random_matrix_hypernet_reconciliation",
        r: int = 2,
        l: int = 64,
        hidden_dim: int = 128,
        *,
        seed: int = 0,
        require_parameters: bool = True,
        enable_bias: bool = False,
        device: str = "cpu",
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.name, self.r, self.l, self.hidden_dim, self.seed = name, r, l, hidden_dim, checked_seed(seed)
        self.require_parameters, self.enable_bias, self.device = require_parameters, enable_bias, device
        self._shape: tuple[int, int] | None = None
        self._at = torch.device("cpu")

    def get_name(self) -> str:
        """The name."""
        return self.name

    def to_config(self) -> dict[str, Any]:
        """tinyBIG's description of a function: the class's full name and the arguments that make it again."""
        names = ("name", "r", "l", "hidden_dim", "seed", "require_parameters", "enable_bias", "device")
        kind = type(self)
        parameters = {name: getattr(self, name) for name in names}
        return {"function_class": f"{kind.__module__}.{kind.__name__}", "function_parameters": parameters}

    def calculate_l(self, n: int | None = None, D: int | None = None) -> int:
        """The length of w, whatever n and D."""
        assert self.l is not None
        return self.l

    def forward(self, n: int, D: int, w: torch.Tensor, device: Any = "cpu", *args: Any, **kwargs: Any) -> torch.Tensor:
        """W (n, D) of w (1, l), on w's device: differentiable by w, and the server's bits where w is float32.

        Raises AssertionError for a w of another shape, InvalidSpec for sizes that no spec may have. ``device`` is
        tinyBIG's and of no use here.
        """
        assert w.shape == (1, self.calculate_l(n=n, D=D))
        n, D = operator.index(n), operator.index(D)  # as tinyBIG takes them: numpy's and torch's integers too
        self._shape, self._at = (n, D), w.device
        W = weave(w.reshape(-1), self._spec(n, D), self.seed)
        assert W.shape == (n, D)
        return W

    def _spec(self, n: int, D: int) -> RandomMatrixHypernet:
        return checked_spec(self.name, shape=(n, D), l=self.l, r=self.r, hidden_dim=self.hidden_dim, scale=1.0)

    @property
    def P(self) -> torch.Tensor | None:
        """P (l, r); like all factors None before the first forward, and drawn anew each time one asks for it."""
        return self._factor("p", self.l)

    @property
    def Q(self) -> torch.Tensor | None:
        """Q (hidden_dim, r)."""
        return self._factor("q", self.hidden_dim)

    @property
    def S(self) -> torch.Tensor | None:
        """S (hidden_dim, r)."""
        return self._factor("s", self.hidden_dim)

    @property
    def T(self) -> torch.Tensor | None:
        """T (n D, r) for the last forward's n and D: the whole of it, which ``forward`` itself never holds."""
        return None if self._shape is None else self._factor("t", self._shape[0] * self._shape[1])

    def _factor(self, name: str, rows: int) -> torch.Tensor | None:
        if self._shape is None:
            return None
        stream: FactorStream = getattr(self._spec(*self._shape).factors(self.seed), name)
        return torch.from_numpy(KEPT.backend.normals(stream, 0, rows * self.r)).reshape(rows, self.r).to(self._at)

    def get_extra_state(self) -> torch.Tensor:
        """What the factors follow from: JSON as uint8 (bytes,), as files of weights and much code take only tensors."""
        state = {name: getattr(self, name) for name in ("name", "seed", *SIZES)}
        return torch.from_numpy(np.frombuffer(json.dumps(state).encode(), np.uint8).copy())

    def set_extra_state(self, state: Any) -> None:
        """Take over name and seed. Raises InvalidInput where the sizes are others, or it is no such state."""
        found = _decoded(state)
        for size in SIZES:
            if found[size] != getattr(self, size):
                raise InvalidInput.at(size, found[size], str(getattr(self, size)))
        self.name, self.seed = found["name"], checked_seed(found["seed"])


def _decoded(state: Any) -> dict[str, Any]:
    """The cast undoes that of a state_dict to another dtype as a whole: bfloat16 holds every byte exactly."""
    try:
        found = json.loads(bytes(state.to(torch.uint8).tolist()))
        return {name: found[name] for name in ("name", "seed", *SIZES)}
    except (AttributeError, ValueError, TypeError, KeyError) as error:
        raise InvalidInput.at("extra state", f"a {type(state).__name__}", "what get_extra_state gives") from error
