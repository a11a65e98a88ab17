from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import kernel_counts
from benchmarks.eager_counts import Shape, count_calls, maps, recurrence
from benchmarks.gpu_roofline import GPUS, main
from kernels.splitting import MOST_PARTS
from tests.golden_data import one_thread

SMALL = Shape(clips=6, length=5, patches=4, layers=3, width=32, heads=2, vision_width=24)
# What the profiler sees besides computes nothing; dropout returns its input in evaluation.
FREE = {
    "dropout",
    "as_strided",
    "view",
    "_reshape_alias",
    "_unsafe_view",
    "to",
    "promote_types",
    "empty",
}


@pytest.mark.parametrize("part", [recurrence, maps])
def test_eager_is_counted_as_the_profiler_sees_it(part: Any) -> None:
    run = part(SMALL, torch.float32, "cpu")
    counted = count_calls(run).launches
    with one_thread(), torch.no_grad(), profile(activities=[ProfilerActivity.CPU]) as seen:
        run()
    launches: Counter[str] = Counter()
    others = set()
    for event in seen.events():
        name = event.name.removeprefix("aten::")
        if name == event.name or _inside(event, counted):
            continue
        if name in counted:
            launches[name] += 1
        elif not event.cpu_children:
            others.add(name)
    assert launches == counted
    assert others <= FREE
    assert count_calls(part(SMALL, torch.float32)) == count_calls(run)


def test_a_query_takes_fifteen_launches_where_eager_takes_hundreds() -> None:
    shape = Shape(clips=75)
    assert len(kernel_counts.recurrence(shape)) == 3 + 3 * shape.layers
    # A step is 46 operators, and three more where there is a step before; positions are twelve.
    assert count_calls(recurrence(shape, torch.float16)).launches.total() == 190


def test_eager_moves_what_its_operators_read_and_write() -> None:
    x = torch.zeros(3, 4, dtype=torch.float16, device="meta")
    row = torch.zeros(1, 4, dtype=torch.float16, device="meta")
    counted = count_calls(lambda: (x.t() * 2).contiguous() + row.expand(3, 4).t())
    sizes = {"mul": 24 + 24, "add": 24 + 8 + 24, "clone": 24 + 24}
    assert set(counted.launches) <= set(sizes)
    assert counted.nbytes == sum(sizes[name] * n for name, n in counted.launches.items())
    assert counted.largest == 24


def test_arithmetic_of_the_kernels_is_that_of_the_formulas() -> None:
    # Eager's products, less those that the kernels do without: queries and outputs of the
    # attention to the query, which are multiplied into its keys and values.
    eager = FlopCounterMode(display=False)
    with one_thread(), torch.no_grad(), eager:
        recurrence(SMALL, torch.float32, "cpu")()
    d, tokens, steps = SMALL.width, SMALL.length, SMALL.layers
    rows, heads = SMALL.clips, SMALL.heads
    v_map = rows * SMALL.patches * d * d
    q_map = tokens * d * d
    of_query = 2 * tokens * d * d  # keys and values
    attended = 2 * rows * tokens * d
    of_clips = 2 * rows * d * d  # queries and outputs
    # Instead: tokens through two matrices each, and attended to at full width by every head.
    ours = 4 * tokens * d * d + 3 * rows * heads * tokens * d
    less = v_map + q_map + of_query + of_clips + attended
    expected = eager.get_total_flops() + 2 * steps * (ours - less)
    assert sum(launch.flops for launch in kernel_counts.recurrence(SMALL)) == expected


def test_a_step_is_not_bound_by_one_multiprocessor_that_reads_all_weights() -> None:
    """At 75 clips: about a third of the 2.1 MB that a block of clips takes in one part."""
    shape = Shape(clips=75, length=16)
    weights = 2 * 12 * shape.width**2
    whole = kernel_counts.program_bytes(shape, parts=1)
    split = kernel_counts.program_bytes(shape, parts=MOST_PARTS)
    assert whole["frame_step"] + whole["time_step"] > weights
    assert sum(split.values()) < 0.75e6
    assert max(split.values()) < 0.42e6


def test_traffic_of_pooling_is_that_of_its_arguments() -> None:
    b, t, p, d, n, length = 1, SMALL.clips, SMALL.patches, SMALL.width, 2, SMALL.length
    half = torch.float16
    v = torch.zeros(b, t, p, d, dtype=half)
    q = torch.zeros(b, n, length, d, dtype=half)
    mask, last = torch.zeros(n, length), torch.zeros(b, n, t, d, dtype=half)
    out, index = torch.zeros(b, n, t, d, dtype=half), torch.zeros(b, n, t, d, dtype=torch.int16)
    expected = sum(x.nbytes for x in (v, q, q, mask, last, out, index))
    assert kernel_counts.frame_pool(SMALL, queries=n).nbytes == expected


def test_bounds_are_printed_and_written(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "gpu_roofline.json").read_text())
    assert {row["group"].split(",")[0] for row in record["rows"]} == {
        "at least",
        "launches and traffic",
    }
    assert {gpu["name"] for gpu in record["settings"]["gpus"]} == {gpu.name for gpu in GPUS}
    for name in ("a query: 15 launches", "finalize (once a video)", "frame_pool (training)"):
        assert sum(row["name"] == name for row in record["rows"]) == 3


def _inside(event: Any, counted: Counter[str]) -> bool:
    parent = event.cpu_parent
    while parent is not None:
        if parent.name.removeprefix("aten::") in counted:
            return True
        parent = parent.cpu_parent
    return False
