"""Which form of an installed model runs: fp32, or its int8 form where that is faster here."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal, get_args

from r2rt.engines.choice import Device, choose
from r2rt.errors import ModelNotFoundError, QueryError

__all__ = ["PRECISIONS", "Precision", "choose_form"]

Precision = Literal["auto", "fp32", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

# int8 departs from the authors' numbers: it has to be worth it.
_LEAST_GAIN = 1.1
_log = logging.getLogger(__name__)


def choose_form(
    folder: Path,
    precision: Precision | None = "auto",
    device: Device = "auto",
    *,
    threads: int | None = None,
    verify: Literal["change", "never"] = "change",
) -> Path:
    """Return the folder of the form of a model that should run.

    `auto` takes the int8 form of an installed fp32 model where it is installed beside it, the CPU
    is what runs, and its encoder is at least 1.1 times as fast here. That is measured once a
    machine and model; a warning says what was chosen then.

    Args:
        folder: a bundle's folder.
        precision: which form; `fp32` and `int8` are taken at their word, None takes the bundle as
            it is.
        device: what the model is to run on.
        threads: processor threads an operator may use.
        verify: whether the files of both forms are compared with their hashes before they run, see
            `Bundle.open`.

    Raises:
        BundleDamagedError, HashMismatchError: see there.
        ModelNotFoundError: the form that was asked for is not installed.
        QueryError: there is no such precision.
    """
    if precision is None:
        return folder
    if precision not in PRECISIONS:
        raise QueryError(f"no precision {precision!r}; expected one of {', '.join(PRECISIONS)}")
    from r2rt.model.bundle import Bundle
    from r2rt.model.installed import int8_form
    from r2rt.model.manifest import read_manifest

    form = int8_form(folder)
    if precision != "auto":
        if read_manifest(folder).precision == precision:
            return folder
        if precision == "int8" and form is not None:
            return form
        raise ModelNotFoundError(
            f"{folder.name} is not installed in {precision}; "
            + (
                f"`r2rt models quantize {folder.name}` makes its int8 form"
                if precision == "int8"
                else "name the model that it was made from"
            )
        )
    if form is None or device not in {"auto", "cpu"}:
        return folder
    bundle = Bundle.open(folder, verify=verify)
    if choose(device, bundle, threads=threads).device != "cpu":
        return folder
    from r2rt.engines.measuring import forms_on_cpu

    (fp32, int8), fresh = forms_on_cpu(bundle, Bundle.open(form, verify=verify), threads=threads)
    if fp32.frame_s is None or int8.frame_s is None:
        return folder
    better = fp32.frame_s >= _LEAST_GAIN * int8.frame_s
    if fresh:
        _log.warning(
            "measured once: a frame takes %.1f ms in int8 and %.1f in fp32, so %s; "
            "--precision fp32 gives the authors' numbers to the digit",
            1e3 * int8.frame_s,
            1e3 * fp32.frame_s,
            "int8 is used" if better else "fp32 is used",
        )
    return form if better else folder
