"""PyTorch (extra ``torch``): layers whose weights are woven from a small w, trained with the very bits that a server
serves, and fetched weights loaded into any module.

Raises ImportError, naming the extra to install, where PyTorch is missing.
"""

# ruff: noqa: E402  (PyTorch is looked for first)

from weightloom_client.arrays import extra

extra("torch", "weightloom_client.torch", "torch")

from weightloom_client.torch.export import model_spec, w_of
from weightloom_client.torch.fabricate import fabricate_module
from weightloom_client.torch.functional import weave
from weightloom_client.torch.initial import initial_w, kaiming_std, scale_for, started
from weightloom_client.torch.kept import set_keep_t_bytes
from weightloom_client.torch.loading import load_into, to_torch
from weightloom_client.torch.modules import FabricatedConv2d, FabricatedEmbedding, FabricatedLinear
from weightloom_client.torch.optim import param_groups
from weightloom_client.torch.parametrization import Fabricated
from weightloom_client.torch.tinybig import Imported, import_tinybig, random_matrix_hypernet_reconciliation

__all__ = [
    "Fabricated",
    "FabricatedConv2d",
    "FabricatedEmbedding",
    "FabricatedLinear",
    "Imported",
    "fabricate_module",
    "import_tinybig",
    "initial_w",
    "kaiming_std",
    "load_into",
    "model_spec",
    "param_groups",
    "random_matrix_hypernet_reconciliation",
    "scale_for",
    "set_keep_t_bytes",
    "started",
    "to_torch",
    "w_of",
    "weave",
]
