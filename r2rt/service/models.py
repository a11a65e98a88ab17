"""Models that are loaded when they are first needed and unloaded when nobody has used them."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import re
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from r2rt.portable import give_back_freed_memory

if TYPE_CHECKING:
    from r2rt.engines import Device, Precision
    from r2rt.grounding.grounder import Grounder

__all__ = ["Models", "give_back_memory"]

_log = logging.getLogger(__name__)
_PAGEOUT = 21  # MADV_PAGEOUT: pages leave the memory, and are read again from their file
_LIBRARY = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) r-xp .*\.so", re.MULTILINE)


@dataclass
class _Loaded:
    loading: threading.Lock = field(default_factory=threading.Lock)
    grounder: Grounder | None = None
    users: int = 0
    used_at: float = 0.0


class Models:
    """One grounder a model, which all requests share.

    Args:
        default: name or folder of the model that is used when none is named; None chooses.
        device: what models run on.
        precision: which form of them runs.
        idle_s: a model that was not used for so long is unloaded by `unload_idle`.
    """

    def __init__(
        self,
        default: str | None,
        device: Device,
        idle_s: float,
        *,
        precision: Precision = "auto",
    ) -> None:
        self._default = default
        self._device = device
        self._precision: Precision = precision
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._models: dict[str, _Loaded] = {}
        self._choosing = threading.Lock()
        self._forms: dict[str, str] = {}  # the form that runs, by the model's folder
        self.loads = 0

    @property
    def default(self) -> str:
        """Folder of the model that is used when none is named.

        Raises:
            ModelNotFoundError: there is none.
        """
        from r2rt.model.installed import choose_default

        if self._default is None:
            self._default = str(choose_default().path)
        return self._default

    def folder(self, name: str | None) -> str:
        """Return the folder of a model by its name.

        Raises:
            ModelNotFoundError: no such model is installed. Paths are no names here.
        """
        from r2rt.model.installed import checked_name, resolve

        if name is None:
            return str(resolve(self.default))
        if name == Path(self.default).name:
            return str(resolve(self.default))
        return str(resolve(checked_name(name)))

    @contextlib.contextmanager
    def use(self, name: str | None = None, *, exactly: str | None = None) -> Iterator[Grounder]:
        """Give a grounder, which is not unloaded before the block ends.

        Args:
            name: the model's, which runs in the form that is set up; None takes the default one.
            exactly: the folder of a model's form, in place of its name.

        Raises:
            R2rtError: there is no such model, or it cannot be loaded; see `Grounder.load`.
        """
        folder = exactly or self._form(self.folder(name))
        with self._lock:
            entry = self._models.setdefault(folder, _Loaded())
            entry.users += 1
        try:
            with entry.loading:
                if entry.grounder is None:
                    entry.grounder = self._load(folder)
            yield entry.grounder
        finally:
            with self._lock:
                entry.users -= 1
                entry.used_at = time.monotonic()

    @property
    def loaded(self) -> int:
        """How many models are in memory."""
        return sum(entry.grounder is not None for entry in list(self._models.values()))

    def is_loaded(self, folder: str) -> bool:
        """Return whether a model is in memory."""
        entry = self._models.get(folder)
        return entry is not None and entry.grounder is not None

    def unload_idle(self, idle_s: float | None = None) -> int:
        """Unload the models that nobody uses and that were not used for a while; return how many.

        Args:
            idle_s: for how long; what the service was set up with if None.
        """
        limit = time.monotonic() - (self._idle_s if idle_s is None else idle_s)
        unloaded: list[Grounder] = []
        with self._lock:
            for folder, entry in list(self._models.items()):
                if entry.users == 0 and entry.used_at <= limit:
                    del self._models[folder]
                    if entry.grounder is not None:
                        unloaded.append(entry.grounder)
            if unloaded:
                self._forms.clear()  # others may have been installed
        for grounder in unloaded:
            _log.info("model %s was idle and is unloaded", grounder.bundle.manifest.name)
            grounder.close()
        return len(unloaded)

    def close(self) -> None:
        """Unload all models; call it when nobody uses one."""
        self.unload_idle(0)

    def _form(self, folder: str) -> str:
        from r2rt.engines.precision import choose_form

        with self._choosing:
            if folder not in self._forms:
                form = choose_form(Path(folder), self._precision, self._device)
                self._forms[folder] = str(form)
            return self._forms[folder]

    def _load(self, folder: str) -> Grounder:
        from r2rt.grounding.grounder import Grounder

        began = time.perf_counter()
        grounder = Grounder.load(folder, device=self._device, precision=None)
        self.loads += 1
        name, seconds = grounder.bundle.manifest.name, time.perf_counter() - began
        _log.info("model %s loaded in %.2f s on %s", name, seconds, grounder.engine.name)
        return grounder


def give_back_memory() -> None:
    """Free unreachable objects, and return free heap pages and those of libraries to the system.

    The pages of libraries, a third of what an idle service takes, are read again when they are
    needed.
    """
    gc.collect()
    give_back_freed_memory()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # a C library without it
            libc = ctypes.CDLL("libc.so.6")
            maps = Path("/proc/self/maps").read_text("utf-8", "replace")
            for start, end in _LIBRARY.findall(maps):
                length = ctypes.c_size_t(int(end, 16) - int(start, 16))
                libc.madvise(ctypes.c_void_p(int(start, 16)), length, _PAGEOUT)
