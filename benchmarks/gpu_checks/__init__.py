"""The steps of `benchmarks/gpu_selfcheck.py`, each run as a process of its own.

A step prints one JSON object a line (`benchmarks.gpu_checks.rows`). It imports what it needs and no
more, so that kernels are checked on a machine without PyAV or ONNX Runtime.
"""
