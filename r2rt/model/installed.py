"""Installed models: where they lie, what a name means, and which one is used when none is named."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from r2rt import portable
from r2rt.errors import ModelNotFoundError, OutputError, QueryError, R2rtError
from r2rt.files import remove_orphans, replace_folder, temporary_beside, umask
from r2rt.model.manifest import MANIFEST_NAME, Manifest, read_manifest
from r2rt.model.registry import DEFAULT_NAME, PUBLISHED, canonical_name
from r2rt.user_folders import user_data, user_path

__all__ = [
    "INT8_SUFFIX",
    "DefaultModel",
    "InstalledModel",
    "changeable",
    "checked_name",
    "choose_default",
    "demo_model",
    "install_folder",
    "installed",
    "int8_form",
    "is_packaged_demo",
    "locked",
    "models_dir",
    "name_of",
    "remove",
    "resolve",
    "staging_dir",
]

# Of the name of a model's int8 form, which is installed beside it.
INT8_SUFFIX = "-int8"

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
# Of the folders in which a pull, its conversion, and an import put a model together.
_STAGED = ("", ".convert", ".import")
# A model that ships with the package, so that everything can be tried without a download.
_DEMO = Path(__file__).parents[1] / "demo"


@dataclass(frozen=True, kw_only=True)
class InstalledModel:
    """A folder of the models folder that holds a manifest.

    Attributes:
        name: the folder's name, by which the model is asked for.
        path: the bundle's folder.
        manifest: what its manifest says; None where it cannot be read.
        problem: why the manifest cannot be read; None where it can.
    """

    name: str
    path: Path
    manifest: Manifest | None
    problem: str | None

    @property
    def size_bytes(self) -> int | None:
        """Bytes of all listed files; None where the manifest cannot be read."""
        if self.manifest is None:
            return None
        return sum(entry.size for entry in self.manifest.files.values())


@dataclass(frozen=True, kw_only=True)
class DefaultModel:
    """The model that is used when none is named: its folder, and one clause that says why."""

    name: str
    path: Path
    reason: str


def models_dir() -> Path:
    """Return the folder of installed models: `models` in `$R2RT_HOME` or in the user's data."""
    return user_data() / "models"


def installed() -> tuple[InstalledModel, ...]:
    """Return every installed model in the order of its name, damaged ones with their problem.

    Raises:
        OutputError: the models folder is there and cannot be read.
    """
    folder = models_dir()
    try:
        paths = sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise OutputError(f"{folder}: cannot be read ({error.strerror})") from error
    return tuple(_inspect(path) for path in paths if _is_bundle(path))


def demo_model() -> InstalledModel | None:
    """Return the demo model that is part of the package; None where the package lacks it."""
    return _inspect(_DEMO) if _is_bundle(_DEMO) else None


def is_packaged_demo(folder: Path) -> bool:
    """Return whether a bundle's folder is the demo model that is part of the package."""
    return folder.resolve() == _DEMO.resolve()


def resolve(name_or_path: str | Path) -> Path:
    """Return the folder of a bundle.

    A `Path`, or a text with a slash, is a folder (or its `bundle.json`). Any other text is the name
    of an installed model, else of a folder in the current one, else `demo`, the package's own. A
    published model may be called by its checkpoint's name, such as `r2_tuning_qvhighlights`.

    Raises:
        ModelNotFoundError: there is none; it says what is installed and how to get one.
    """
    text = str(name_or_path)
    path = user_path(text)
    if isinstance(name_or_path, Path) or len(path.parts) != 1 or text.startswith((".", "~")):
        folder = path.parent if path.name == MANIFEST_NAME else path
        if not _is_bundle(folder):
            raise ModelNotFoundError(
                f"{path}: no {MANIFEST_NAME} there; expected a bundle's folder or the name of a "
                f"model ({_what_is_installed()})"
            )
        return folder
    name = canonical_name(text)
    if _NAME.fullmatch(name) and _is_bundle(models_dir() / name):
        return models_dir() / name
    if _is_bundle(path):
        return path
    if name == _DEMO.name and _is_bundle(_DEMO):
        return _DEMO
    raise ModelNotFoundError(_not_found(name))


def name_of(folder: Path) -> str:
    """Return what names a bundle elsewhere, too: an installed model's name, else its folder."""
    if is_packaged_demo(folder):
        return _DEMO.name
    is_installed = folder.parent.resolve() == models_dir().resolve()
    return folder.name if is_installed else str(folder.resolve())


def choose_default() -> DefaultModel:
    """Choose the model that is used when none is named.

    It is the model that `R2RT_MODEL` names; else the installed published model, `qvhighlights`
    before others in the order of the registry; else the only model that is installed; else the demo
    model of the package.

    Raises:
        ModelNotFoundError: there is none of these, or not the one that `R2RT_MODEL` names.
    """
    if named := os.environ.get("R2RT_MODEL"):
        path = resolve(named)
        return DefaultModel(name=path.name, path=path, reason="named by R2RT_MODEL")
    there = [model.name for model in installed()]
    names = [
        name
        for name in there
        if not (name.endswith(INT8_SUFFIX) and name.removesuffix(INT8_SUFFIX) in there)
    ]
    for name in dict.fromkeys((DEFAULT_NAME, *PUBLISHED)):
        if name in names:
            path = models_dir() / name
            reason = (
                "a published model that is installed"
                if _is_published(_inspect(path), name)
                else f"installed as {name}, though it was not made of the published checkpoint"
            )
            return DefaultModel(name=name, path=path, reason=reason)
    if len(names) == 1:
        return DefaultModel(
            name=names[0], path=models_dir() / names[0], reason="the only model that is installed"
        )
    if names:
        raise ModelNotFoundError(
            f"which model? {_what_is_installed()}; name one with --model, "
            f"or `r2rt models pull {DEFAULT_NAME}`"
        )
    if _is_bundle(_DEMO):
        return DefaultModel(
            name=_DEMO.name,
            path=_DEMO,
            reason="the demo model of the package, which knows a small world of emoji alone; "
            f"`r2rt models pull {DEFAULT_NAME}` fetches a full one",
        )
    raise ModelNotFoundError(
        f"no model is installed; `r2rt models pull {DEFAULT_NAME}` fetches one, "
        "or name a bundle's folder with --model"
    )


def remove(name: str) -> Path:
    """Remove a model, and what an unfinished pull left of it; return the folder that it was in.

    Raises:
        ModelNotFoundError: it is not installed, nor was it being fetched.
        OutputError: it cannot be removed.
    """
    name = checked_name(name)
    with locked(name):
        path = models_dir() / name
        staged = [staging_dir(f"{name}{ending}") for ending in _STAGED]
        there = [folder for folder in (path, *staged) if folder.is_dir()]
        fetched = [file for file in _fetched(name) if file.is_file()]
        if not there and not fetched and name == _DEMO.name:
            raise ModelNotFoundError(f"{name} is part of the package: nothing to remove")
        if not there and not fetched:
            raise ModelNotFoundError(_not_found(name))
        for folder in there:
            _discard(folder)
        for file in fetched:
            try:
                file.unlink()
            except OSError as error:
                raise OutputError(f"{file}: cannot be removed ({error.strerror})") from error
    return path


def _fetched(name: str) -> list[Path]:
    """Return where a pull keeps a published model's checkpoint until it is converted."""
    if name not in PUBLISHED:
        return []
    checkpoint = staging_dir("checkpoints") / PUBLISHED[name].filename
    endings = ("", ".part", ".part.json")
    return [checkpoint.with_name(checkpoint.name + ending) for ending in endings]


def int8_form(folder: Path) -> Path | None:
    """Return the folder of an installed fp32 model's int8 form; None where there is none.

    It must have been made of this very bundle, have kept to the limits of the comparison, and be
    calibrated for absent queries if the fp32 model is.
    """
    from r2rt.model.bundle import Bundle

    form = folder.with_name(folder.name + INT8_SUFFIX)
    if folder.absolute().parent != models_dir().absolute() or not _is_bundle(form):
        return None
    try:
        origin, manifest = read_manifest(folder), read_manifest(form)
    except R2rtError:
        return None
    report = manifest.quantization
    if origin.precision != "fp32" or manifest.precision != "int8" or report is None:
        return None
    if origin.presence is not None and manifest.presence is None:  # it could not say "not in it"
        return None
    passed = all(figure.passed for figure in report.figures)
    return form if passed and report.origin == Bundle(folder, origin).fingerprint else None


def checked_name(name: str) -> str:
    """Return the name under which a model is installed; raise `QueryError` if it can be none."""
    if not _NAME.fullmatch(name):
        raise QueryError(
            f"{name!r} is no name of a model: expected letters, digits, `_`, `.` and `-`, "
            "the first of them no dot or hyphen"
        )
    return canonical_name(name)


def staging_dir(name: str) -> Path:
    """Return the folder in which model `name` is put together; it survives an interruption."""
    return models_dir() / ".partial" / name


def install_folder(staged: Path, name: str) -> Path:
    """Move a complete bundle's folder to where model `name` is installed, replacing what is there.

    Raises:
        OutputError: it cannot be moved; the old folder stays.
    """
    target = models_dir() / name
    try:
        replace_folder(staged, target)
    except OSError as error:
        raise OutputError(f"{target}: cannot be installed ({error.strerror})") from error
    return target


def changeable(folder: Path) -> Path:
    """Return `folder`, or a copy among the installed models if it is the package's own.

    What a package installed is not its user's to change, and the next version would undo it.

    Raises:
        OutputError: the copy cannot be written.
    """
    if not is_packaged_demo(folder):
        return folder
    with locked(_DEMO.name):
        staged = staging_dir(_DEMO.name)
        try:
            shutil.rmtree(staged, ignore_errors=True)
            shutil.copytree(_DEMO, staged, copy_function=shutil.copyfile)
            staged.chmod(0o777 & ~umask())  # a package may be installed read-only
        except OSError as error:
            raise OutputError(f"{staged}: cannot be written ({error})") from error
        return install_folder(staged, _DEMO.name)


@contextlib.contextmanager
def locked(name: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Let one process at a time install or remove model `name`; the others wait.

    Args:
        name: the model.
        waiting: called once if another process has the lock.

    Raises:
        OutputError: the models folder cannot be written.
    """
    path = models_dir() / ".partial" / f".{name}.lock"
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_orphans(models_dir())
            stack.enter_context(portable.locked(path, waiting))
        except OSError as error:
            raise OutputError(
                f"{path}: cannot be locked ({error.strerror}); "
                "set R2RT_HOME to a folder that can be written"
            ) from error
        yield


def _inspect(path: Path) -> InstalledModel:
    try:
        manifest = read_manifest(path)
    except R2rtError as error:
        return InstalledModel(name=path.name, path=path, manifest=None, problem=str(error))
    return InstalledModel(name=path.name, path=path, manifest=manifest, problem=None)


def _is_published(model: InstalledModel, name: str) -> bool:
    """Return whether a model was made of the checkpoint that was published under a name."""
    if model.manifest is None:
        return False
    return model.manifest.provenance.checkpoint_sha256.startswith(PUBLISHED[name].hash8)


def _is_bundle(folder: Path) -> bool:
    try:
        return (folder / MANIFEST_NAME).is_file()
    except (OSError, ValueError):
        return False


def _discard(path: Path) -> None:
    """Take a folder away in one step, then delete it at leisure."""
    trash: Path | None = None
    try:
        trash = temporary_beside(path)
        path.rename(trash)
    except OSError as error:
        raise OutputError(f"{path}: cannot be removed ({error.strerror})") from error
    finally:
        if trash is not None:
            shutil.rmtree(trash, ignore_errors=True)


def _what_is_installed() -> str:
    names = [model.name for model in installed()]
    return f"installed: {', '.join(names)}" if names else "none is installed"


def _not_found(name: str) -> str:
    if name in PUBLISHED:
        return f"{name} is not installed; `r2rt models pull {name}` fetches it"
    known = [*(model.name for model in installed()), *PUBLISHED]
    close = difflib.get_close_matches(name, known, n=1)
    guess = f", did you mean {close[0]}?" if close else ""
    return (
        f"no model {name!r} is installed{guess} ({_what_is_installed()}); "
        f"`r2rt models list` shows what can be pulled"
    )
