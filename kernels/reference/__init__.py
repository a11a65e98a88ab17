"""The kernels' numbers in plain PyTorch, one module a kernel, in whatever type they are given."""
