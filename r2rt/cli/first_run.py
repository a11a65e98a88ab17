"""The model of a command that names none: what the demo model is, and the offer of a full one."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from r2rt import portable
from r2rt.cli.console import complain, note, progress

if TYPE_CHECKING:
    from r2rt.model.installed import DefaultModel

__all__ = ["choose_model", "fetch_model"]

# A terminal at which nobody sits, such as that of `docker run -t`, must not hold up the command.
_ANSWER_S = 60.0


def choose_model(model: str | None, *, yes: bool, quiet: bool) -> Path:
    """Return the folder of the model to use; offer a full one where only the demo model is there.

    Nothing is fetched unless `yes` is given, or a person at a terminal agrees. A "no" is remembered
    and the question not repeated.

    Args:
        model: name or folder of a model; None for the default one.
        yes: fetch a published model that is not installed: the named one, else the default one.
        quiet: print no notes and ask nothing.

    Raises:
        ModelNotFoundError: there is no such model.
        R2rtError: it could not be fetched; see `r2rt.model.pull.pull`.
    """
    from r2rt.errors import ModelNotFoundError
    from r2rt.model.installed import choose_default, is_packaged_demo, resolve
    from r2rt.model.registry import DEFAULT_NAME, PUBLISHED, canonical_name

    if model is not None:
        try:
            return resolve(model)
        except ModelNotFoundError:
            name = canonical_name(model)
            if not yes or name not in PUBLISHED:
                raise
        return fetch_model(name, quiet=quiet)
    chosen = choose_default()
    if not is_packaged_demo(chosen.path):
        note(f"no --model given, using {chosen.name}: {chosen.reason}", quiet=quiet)
        return chosen.path
    if yes or _is_wanted(chosen, quiet=quiet):
        return fetch_model(DEFAULT_NAME, quiet=quiet)
    return chosen.path


def fetch_model(
    name: str,
    *,
    source: str | None = None,
    clip: str | None = None,
    force: bool = False,
    quiet: bool = False,
) -> Path:
    """Install a model under a progress bar; see `r2rt.model.pull.pull`."""
    from r2rt.model.pull import pull

    def say(line: str) -> None:
        note(line, quiet=quiet)

    with progress(f"pulling {name.partition('@')[0]}", unit="B", quiet=quiet) as update:
        folder = pull(name, source=source, clip=clip, force=force, progress=update, say=say)
    say(f"{folder.name} is installed in {folder}")
    return folder


def _is_wanted(demo: DefaultModel, *, quiet: bool) -> bool:
    """Say in two lines what the demo model is and how to get a full one, and ask once."""
    from r2rt.model.convert.clip_files import hub_is_offline
    from r2rt.model.installed import models_dir
    from r2rt.model.pull import how_to_carry
    from r2rt.model.registry import DEFAULT_NAME

    declined = models_dir() / ".full-model-declined"
    note(f"no --model given, using {demo.name}: {demo.reason}", quiet=quiet)
    if quiet or declined.exists():
        return False
    if hub_is_offline():
        complain(f"HF_HUB_OFFLINE is set; for a full model, {how_to_carry(DEFAULT_NAME)}")
        return False
    complain(_offer())
    answer = _answer("Fetch it now? This is asked once. [y/N] ") if _can_ask() else None
    if answer is None:
        return False
    if answer.strip().lower() in ("y", "yes"):
        return True
    with contextlib.suppress(OSError):  # asked again where nothing can be written
        declined.parent.mkdir(parents=True, exist_ok=True)
        declined.touch()
    return False


def _offer() -> str:
    from r2rt.model.download import shown_url
    from r2rt.model.registry import (
        CLIP_LICENCE,
        CLIP_SOURCES,
        WEIGHTS_LICENCE,
        hub_endpoint,
    )

    megabytes = (CLIP_SOURCES[0].size or 0) / 1e6
    return (
        f"that command, or --yes with this one, downloads CLIP ({megabytes:.0f} MB) and weights "
        f"(some MB) from {shown_url(hub_endpoint())}; licences: {WEIGHTS_LICENCE}; CLIP: "
        f"{CLIP_LICENCE}"
    )


def _can_ask() -> bool:
    """Return whether a person can answer: stdin and stderr are a terminal, in the foreground."""
    if sys.stdin is None or sys.stderr is None:
        return False
    return sys.stdin.isatty() and sys.stderr.isatty() and portable.may_read_terminal(sys.stdin)


def _answer(question: str) -> str | None:
    """Ask on stderr, since stdout is for results; None if there is no answer within a minute."""
    sys.stderr.write(question)
    sys.stderr.flush()
    if not portable.has_input(sys.stdin, _ANSWER_S):
        sys.stderr.write("\n")
        complain(f"no answer in {_ANSWER_S:.0f} s: nothing is fetched")
        return None
    return sys.stdin.readline() or None
