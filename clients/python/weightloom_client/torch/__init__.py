"""Fetched weights in PyTorch (extra ``torch``): as tensors, or loaded into a module by the names of its state_dict.

Raises ImportError, naming the extra to install, where PyTorch is missing.
"""

from weightloom_client.arrays import extra

extra("torch", "weightloom_client.torch", "torch")

from weightloom_client.torch.loading import load_into, to_torch  # noqa: E402  (PyTorch is looked for first)

__all__ = ["load_into", "to_torch"]
