"""TensorRT engines and compiled kernels, run through the CUDA driver."""
