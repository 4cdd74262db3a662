"""The Triton kernels of torch_gd; installed as `torch_gd.triton_kernels`."""
