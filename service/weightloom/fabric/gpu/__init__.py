"""NVIDIA GPUs: found without torch (finding), each one's work (gpu), all of them as one device (device).

The kernels are in ``fabric/kernels_cuda.py``. Nothing here is imported, and neither is torch, where no GPU is used.
"""
