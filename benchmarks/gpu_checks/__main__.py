"""Run one step: `python -m benchmarks.gpu_checks STEP [ARGUMENT ...]`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable

from benchmarks.gpu_checks.rows import put

__all__ = ["ON_CPU", "STEPS", "main"]

# A step's module and function; the module is imported when the step is run.
STEPS = {
    "environment": ("environment", "check_environment"),
    "block": ("kernels", "check_block"),
    "pool": ("kernels", "check_pool"),
    "small": ("kernels", "check_small"),
    "launches": ("launches", "check_launches"),
    "sanitized": ("launches", "run_for_the_sanitizer"),
    "sanitized-pool": ("kernels", "run_pool_for_the_sanitizer"),
    "compile": ("times", "compile_for_times"),
    "times": ("times", "time_kernels"),
    "training": ("times", "time_pool_in_training"),
    "encoder": ("encoder", "time_encoder"),
    "bundle": ("graphs", "make_bundle"),
    "graphs": ("graphs", "check_graphs"),
}
# What does something without a GPU.
ON_CPU = {"environment", "block", "pool", "small"}
# What runs no kernel of ours.
_WITHOUT_KERNELS = {"environment", "encoder", "bundle", "graphs"}


def main(arguments: list[str]) -> None:
    """Run a step."""
    import torch

    step, *rest = arguments
    module, name = STEPS[step]
    if not torch.cuda.is_available():
        if step not in ON_CPU:
            put("all of it", "skipped", reason="no GPU")
            return
        # Read when Triton is first imported.
        os.environ["TRITON_INTERPRET"] = "1"
    elif step not in _WITHOUT_KERNELS:
        from kernels.dispatch import LEAST_CAPABILITY

        found = torch.cuda.get_device_capability()
        if found < LEAST_CAPABILITY:
            reason = "kernels take compute capability {}.{} or later, this GPU has {}.{}"
            put("all of it", "skipped", reason=reason.format(*LEAST_CAPABILITY, *found))
            return
    function: Callable[..., None] = getattr(
        importlib.import_module(f"benchmarks.gpu_checks.{module}"), name
    )
    function(*rest)


if __name__ == "__main__":
    main(sys.argv[1:])
