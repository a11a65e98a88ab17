"""What a compiled kernel may use: hard limits of each target, and a budget for published models.

Limits are those of "Technical Specifications per Compute Capability" in NVIDIA's CUDA C++
Programming Guide.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kernels.sass import Contents

__all__ = ["BUDGETS", "LIMITS", "Budget", "Limits", "blocks_per_sm", "broken_limits", "over_budget"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Of a streaming multiprocessor (SM).

    Attributes:
        shared_bytes: shared memory of an SM.
        block_shared_bytes: the most of it that one block can have.
        threads: resident threads.
    """

    shared_bytes: int
    block_shared_bytes: int
    threads: int


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a kernel may take for P = 50, D = 256 in fp16 or bf16.

    Attributes:
        registers: the most a thread has.
        blocks: the least that fit one SM, by target.
        products: whether it has matrix products, for tensor cores.
    """

    registers: int
    blocks: Mapping[int, int]
    products: bool = True


_KIB = 1024
_REGISTERS = 65536
# Registers are handed out to warps in portions of these many.
_REGISTER_PORTION = 256
# What the system keeps of every block's shared memory.
_RESERVED_BYTES = 1024

LIMITS: Final[Mapping[int, Limits]] = {
    80: Limits(shared_bytes=164 * _KIB, block_shared_bytes=163 * _KIB, threads=2048),
    89: Limits(shared_bytes=100 * _KIB, block_shared_bytes=99 * _KIB, threads=1536),
    90: Limits(shared_bytes=228 * _KIB, block_shared_bytes=227 * _KIB, threads=2048),
    100: Limits(shared_bytes=228 * _KIB, block_shared_bytes=227 * _KIB, threads=2048),
    120: Limits(shared_bytes=100 * _KIB, block_shared_bytes=99 * _KIB, threads=1536),
}

# By the stem of a variant without its type.
BUDGETS: Final[Mapping[str, Budget]] = {
    "layer_pool": Budget(registers=128, blocks={80: 2, 89: 1, 90: 2, 100: 2, 120: 1}),
    "query_maps": Budget(registers=200, blocks={80: 1, 89: 1, 90: 1, 100: 1, 120: 1}),
    "frame_step-first": Budget(registers=248, blocks={80: 1, 89: 1, 90: 1, 100: 1, 120: 1}),
    "frame_step-next": Budget(registers=248, blocks={80: 1, 89: 1, 90: 1, 100: 1, 120: 1}),
    "time_attention": Budget(registers=128, blocks={80: 4, 89: 5, 90: 4, 100: 5, 120: 5}),
    "time_step": Budget(registers=128, blocks={80: 2, 89: 2, 90: 2, 100: 2, 120: 2}),
    "settle": Budget(registers=128, blocks={80: 2, 89: 2, 90: 2, 100: 2, 120: 2}, products=False),
    "finalize": Budget(registers=144, blocks={80: 2, 89: 1, 90: 2, 100: 2, 120: 1}),
}


def blocks_per_sm(contents: Contents, *, shared_bytes: int, num_warps: int, capability: int) -> int:
    """Return how many blocks of a kernel are resident at once on an SM, at most."""
    limits = LIMITS[capability]
    of_warp = -(-contents.registers * 32 // _REGISTER_PORTION) * _REGISTER_PORTION
    return min(
        _REGISTERS // (of_warp * num_warps),
        limits.shared_bytes // (shared_bytes + _RESERVED_BYTES),
        limits.threads // (32 * num_warps),
    )


def broken_limits(
    contents: Contents, *, shared_bytes: int, num_warps: int, capability: int
) -> Iterator[str]:
    """Say why a kernel cannot be launched on a target, or would spill registers on it."""
    most = LIMITS[capability].block_shared_bytes
    if shared_bytes > most:
        yield f"{shared_bytes} bytes of shared memory, a block can have {most}"
    elif not blocks_per_sm(
        contents, shared_bytes=shared_bytes, num_warps=num_warps, capability=capability
    ):
        yield f"{contents.registers} registers for each of {num_warps} warps do not fit"
    if contents.spills or contents.stack_bytes:
        yield (
            f"{contents.spills} instructions spill registers to {contents.stack_bytes} bytes of "
            "stack, expected none"
        )


def over_budget(
    stem: str, contents: Contents, *, shared_bytes: int, num_warps: int, capability: int
) -> Iterator[str]:
    """Say in what a kernel for P = 50, D = 256 exceeds its budget, beyond the limits."""
    budget = BUDGETS[stem]
    if contents.registers > budget.registers:
        yield f"{contents.registers} registers, the budget is {budget.registers}"
    blocks = blocks_per_sm(
        contents, shared_bytes=shared_bytes, num_warps=num_warps, capability=capability
    )
    if blocks < budget.blocks[capability]:
        yield f"{blocks} blocks fit an SM, the budget is {budget.blocks[capability]}"
    if budget.products and not contents.tensor_cores:
        yield "no product on tensor cores"
    if not contents.wide_loads:
        yield f"none of {contents.loads} loads is 16 bytes wide"
