"""PyTorch's layers with fabricated weights."""

from __future__ import annotations

from typing import Any

from torch import nn

from weightloom_client.torch.fabricate import fabricate_parameter

__all__ = ["FabricatedConv2d", "FabricatedEmbedding", "FabricatedLinear"]


class FabricatedLinear(nn.Linear):
    """An ``nn.Linear`` whose weight is W of a w of ``l`` numbers, which is what is trained; its bias is a plain one.

    name: the tensor's name in the state_dict of the *whole* net ("layers.0.weight"): it decides the factors, with seed.
    scale: None for the one that gives W nn.Linear's own spread (see ``started``). ``linear`` are arguments of
    nn.Linear. Raises InvalidInput for a bad seed, and InvalidSpec, which is one too, for sizes that no spec may have.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        name: str,
        seed: int,
        l: int = 64,
        r: int = 64,
        hidden_dim: int = 128,
        scale: float | None = None,
        **linear: Any,
    ) -> None:
        super().__init__(in_features, out_features, **linear)
        fabricate_parameter(self, "weight", name, seed, (l, r, hidden_dim), scale)


class FabricatedConv2d(nn.Conv2d):
    """An ``nn.Conv2d`` with a fabricated weight; see ``FabricatedLinear``. ``conv`` are arguments of nn.Conv2d."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        name: str,
        seed: int,
        l: int = 64,
        r: int = 64,
        hidden_dim: int = 128,
        scale: float | None = None,
        **conv: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, **conv)
        fabricate_parameter(self, "weight", name, seed, (l, r, hidden_dim), scale)


class FabricatedEmbedding(nn.Embedding):
    """An ``nn.Embedding`` with a fabricated weight of standard deviation 1; see ``FabricatedLinear``.

    The row at padding_idx gets no gradient, as with nn.Embedding, but is no row of zeros. Raises InvalidInput for
    max_norm, which would change rows of W that no w makes, and for sparse gradients.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        name: str,
        seed: int,
        l: int = 64,
        r: int = 64,
        hidden_dim: int = 128,
        scale: float | None = None,
        **embedding: Any,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, **embedding)
        fabricate_parameter(self, "weight", name, seed, (l, r, hidden_dim), scale)
