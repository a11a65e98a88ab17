"""The four Lance tables of a library, and how they are written so that no kill can harm them.

Rows of clips, tokens and subtitles belong to an entry, a random id of one indexing of one video.
They are written first. A row of `videos` that names the entry is written last, in one commit, and
readers join on it: an entry without such a row does not exist for them, and `compact` removes it.
Commits are Lance's own: a version of a table is there or it is not.

| table | a row |
|---|---|
| `videos` | a file: path, content, entry, words, state, error, and facts about the video |
| `clips` | a vector of the first stage: entry, row, vector (E) float16 of length 1 |
| `tokens` | clips of the second stage: entry, first clip, clips, packed tokens |
| `subtitles` | a line: words (its own entry), start and end in seconds, text, language |
"""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from r2rt.archive.settings import Settings
from r2rt.errors import LibraryError, LibraryFullError, MissingExtraError, OutputError
from r2rt.retry import TransientError, retrying
from r2rt.video.remote import is_remote

if TYPE_CHECKING:
    import pyarrow as pa
    from lance import LanceDataset

__all__ = [
    "Row",
    "Table",
    "TableName",
    "Tables",
    "damaged",
    "folder_bytes",
    "quoted",
    "require_lance",
    "require_package",
    "unwritable",
]

TableName: TypeAlias = Literal["videos", "clips", "tokens", "subtitles"]
Row: TypeAlias = dict[str, Any]

NAMES: tuple[TableName, ...] = ("videos", "clips", "tokens", "subtitles")
_SETTINGS = b"r2rt"
# What Lance keeps of indices and of the tables' own data, in memory: a query of 2,000 hours reads
# some 40 MB of the index, which the system has in memory as well.
_INDEX_CACHE_BYTES = 96 << 20
_METADATA_CACHE_BYTES = 64 << 20
_TRIES, _FIRST_WAIT_S, _LONGEST_WAIT_S = 10, 0.05, 2.0


def require_lance() -> None:
    """Check that a library can be opened.

    Raises:
        MissingExtraError: Lance is not installed.
    """
    # Lance asks for its own log level when it is imported; its warnings are not for users.
    os.environ.setdefault("LANCE_LOG", "error")
    os.environ.setdefault("LANCE_INCLUDE_VECTOR_CENTROIDS", "false")
    require_package("lance", "a library of videos")


def require_package(name: str, what: str) -> None:
    """Raise `MissingExtraError` if a package of the extra is not installed.

    Args:
        name: of its module.
        what: needs it.
    """
    try:
        importlib.import_module(name)
    except ImportError as error:
        extra = {"ray": "ray", "faster_whisper": "speech"}.get(name, "archive")
        raise MissingExtraError(
            f"{what} needs {name}; install it: pip install 'r2rt[{extra}]'"
        ) from error


def quoted(values: Sequence[str]) -> str:
    """Return values as a list of SQL: ('a', 'b')."""
    return "(" + ", ".join("'" + value.replace("'", "''") + "'" for value in values) + ")"


class Table:
    """One Lance table; threads may share it."""

    def __init__(self, uri: str, dataset: LanceDataset) -> None:
        self.uri = uri
        self._dataset = dataset
        self._lock = threading.Lock()

    def latest(self) -> LanceDataset:
        """Return the newest version; it does not change while it is read.

        Raises:
            LibraryError: the table is not there any more, or damaged.
        """
        import lance

        with self._lock:
            try:
                newest = self._dataset.latest_version
                if newest != self._dataset.version:
                    self._dataset = lance.dataset(self.uri, session=self._dataset.session())
            except (OSError, ValueError) as error:
                raise damaged(self.uri, error) from error
            return self._dataset

    def _own(self) -> LanceDataset:
        """Return the newest version for one writer: nobody else may read what it writes with."""
        import lance

        session = self.latest().session()
        try:
            return lance.dataset(self.uri, session=session)
        except (OSError, ValueError) as error:
            raise damaged(self.uri, error) from error

    def append(self, rows: pa.Table | pa.RecordBatchReader) -> None:
        """Add rows in one commit."""
        self.commit(lambda dataset: dataset.insert(rows))

    def append_fragments(self, descriptions: Sequence[str]) -> None:
        """Add fragments that workers wrote, described in JSON, in one commit."""
        from lance import FragmentMetadata, LanceDataset, LanceOperation

        fragments = [FragmentMetadata.from_json(text) for text in descriptions]
        operation = LanceOperation.Append(fragments)
        self.commit(
            lambda dataset: LanceDataset.commit(self.uri, operation, read_version=dataset.version)
        )

    def upsert(self, rows: pa.Table, key: str) -> None:
        """Replace the rows that have the same keys, and add the others, in one commit."""
        self.commit(
            lambda dataset: (
                dataset.merge_insert(key)
                .when_matched_update_all()
                .when_not_matched_insert_all()
                .execute(rows)
            )
        )

    def delete(self, where: str) -> None:
        """Remove rows in one commit."""
        self.commit(lambda dataset: dataset.delete(where))

    def rows(self, columns: Sequence[str], where: str | None = None) -> pa.Table:
        """Return columns of the rows that fit a filter, of the newest version.

        Raises:
            LibraryError: the table is damaged.
            ValueError: the filter cannot be used.
        """
        return self.read(columns=list(columns), filter=where)

    def read(self, **options: Any) -> pa.Table:
        """Return what Lance's `to_table` returns for these options; see `rows`."""
        import pyarrow as pa

        try:
            return self.latest().to_table(**options)
        except (OSError, pa.ArrowException) as error:
            raise damaged(self.uri, error) from error

    def batches(self, columns: Sequence[str], *, rows: int) -> Iterator[pa.RecordBatch]:
        """Yield columns of all rows, so many at once, of the newest version.

        Raises:
            LibraryError: the table is damaged.
        """
        import pyarrow as pa

        try:
            yield from self.latest().to_batches(
                columns=list(columns), batch_size=rows, batch_readahead=1, fragment_readahead=1
            )
        except (OSError, pa.ArrowException) as error:
            raise damaged(self.uri, error) from error

    def commit(self, write: Any) -> None:
        """Write, again if another process came in between."""

        def attempt() -> None:
            try:
                write(self._own())
            except (OSError, RuntimeError) as error:
                text = str(error)
                if "conflict" in text.lower() or "concurrent" in text.lower():
                    raise TransientError(text) from error
                raise unwritable(self.uri, error) from error

        tries = retrying(tries=_TRIES, first_s=_FIRST_WAIT_S, longest_s=_LONGEST_WAIT_S)
        try:
            tries(attempt)
        except TransientError as error:
            raise OutputError(
                f"{self.uri}: others write to the library all the time; try again"
            ) from error


class Tables:
    """The tables of one library.

    Attributes:
        root: the library's folder or address.
        settings: what all rows have in common.
    """

    def __init__(self, root: str, settings: Settings, tables: dict[TableName, Table]) -> None:
        self.root = root
        self.settings = settings
        self.videos, self.clips = tables["videos"], tables["clips"]
        self.tokens, self.subtitles = tables["tokens"], tables["subtitles"]

    @classmethod
    def open(cls, root: str) -> Tables:
        """Open a library.

        Raises:
            MissingExtraError: Lance is not installed.
            LibraryError: there is no library, or it cannot be read.
        """
        found = cls.find(root)
        if found is None:
            raise LibraryError(
                f"{root}: not a library of videos; `r2rt index {root} VIDEO...` makes one"
            )
        return found

    @classmethod
    def find(cls, root: str) -> Tables | None:
        """Open a library; return None where there is none.

        Raises:
            MissingExtraError: Lance is not installed.
            LibraryError: it cannot be read, or its address cannot be reached.
        """
        require_lance()
        import lance

        if not is_remote(root) and not Path(root, "videos.lance").is_dir():
            return None
        session = lance.Session(  # type: ignore[attr-defined]
            index_cache_size_bytes=_INDEX_CACHE_BYTES,
            metadata_cache_size_bytes=_METADATA_CACHE_BYTES,
        )
        tables: dict[TableName, Table] = {}
        found: dict[TableName, pa.Schema] = {}
        for name in NAMES:
            uri = _uri(root, name)
            try:
                dataset = lance.dataset(uri, session=session)
                tables[name], found[name] = Table(uri, dataset), dataset.schema
            except (OSError, ValueError) as error:
                if name == "videos" and is_remote(root) and "not found" in str(error).lower():
                    return None
                raise damaged(uri, error) from error
        metadata = tables["videos"].latest().schema.metadata or {}
        settings = Settings.parse(metadata.get(_SETTINGS), root)
        for name, schema in schemas(settings.width).items():
            lacking = [column.name for column in schema if column not in list(found[name])]
            if lacking:
                raise LibraryError(
                    f"{_uri(root, name)}: no column {lacking[0]} as a library has it; name "
                    "the folder that `r2rt index` made"
                )
        return cls(root, settings, tables)

    @classmethod
    def create(cls, root: str, settings: Settings) -> Tables:
        """Make a library, or open the one that another process made in the meantime.

        Raises:
            MissingExtraError: Lance is not installed.
            LibraryError: the folder holds something else.
            OutputError: it cannot be written.
        """
        require_lance()
        import lance

        if (found := cls.find(root)) is not None:
            return found
        if not is_remote(root):
            _make_folder(root)
        with write_lock(root):
            # The table `videos` is the last: with it there is a library.
            for name in reversed(NAMES):
                schema = schemas(settings.width)[name]
                if name == "videos":
                    schema = schema.with_metadata({_SETTINGS: msgspec.json.encode(settings)})
                uri = _uri(root, name)
                with contextlib.suppress(FileExistsError):
                    try:
                        lance.write_dataset(schema.empty_table(), uri, schema, mode="create")
                    except OSError as error:
                        if "already exists" not in str(error).lower():
                            raise unwritable(uri, error) from error
        return cls.open(root)

    def all(self) -> Iterator[tuple[TableName, Table]]:
        """Yield every table with its name."""
        yield from zip(NAMES, (self.videos, self.clips, self.tokens, self.subtitles), strict=True)

    @contextlib.contextmanager
    def claim(self, content: str) -> Iterator[bool]:
        """Keep other processes from indexing the same content meanwhile; yield whether it worked.

        Libraries at an address have no locks. Two processes may then index the same video, of
        which the later one counts.
        """
        if is_remote(self.root):
            yield True
            return
        from filelock import FileLock, Timeout

        folder = Path(self.root, "locks")
        path = folder / f"{content}.lock"
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        except OSError as error:
            raise unwritable(str(path), error) from error
        try:
            yield True
        finally:
            # Windows removes no file that is open; there it may stay, which does no harm.
            with contextlib.suppress(OSError):
                path.unlink()
            lock.release()

    def size_bytes(self) -> int | None:
        """Return the bytes that the library takes on disk; None for one at an address."""
        return None if is_remote(self.root) else folder_bytes(self.root)

    def check_quota(self, quota_bytes: int | None) -> None:
        """Raise `LibraryFullError` if the library takes as much as it may."""
        if quota_bytes is None:
            return
        size = folder_bytes(self.root)
        if size >= quota_bytes:
            raise LibraryFullError(
                f"{self.root}: {size / 1e9:.2f} GB of {quota_bytes / 1e9:.2f} GB; give a larger "
                "--quota, use --keep vectors, or `r2rt library compact` it, after a "
                "`remove` of videos where that is not enough"
            )


def folder_bytes(folder: str) -> int:
    """Return the bytes of all files in a folder; others may add and remove some meanwhile."""
    total = 0
    for parent, _, names in os.walk(folder):  # skips a folder that is removed
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(Path(parent, name)).st_size
    return total


@contextlib.contextmanager
def write_lock(root: str) -> Iterator[None]:
    """Let one process of this machine commit at a time; others wait. Readers never do."""
    if is_remote(root):
        yield
        return
    from filelock import FileLock

    try:
        folder = Path(root, "locks")
        folder.mkdir(exist_ok=True)
        lock = FileLock(folder / "write.lock")
        lock.acquire()
    except OSError as error:
        raise unwritable(root, error) from error
    try:
        yield
    finally:
        lock.release()


def schemas(width: int) -> dict[TableName, pa.Schema]:
    """Return the columns of every table; vectors have `width` numbers."""
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    return {
        "videos": pa.schema(
            [
                ("path", text),
                ("content", text),
                ("entry", text),
                ("words", text),
                ("words_key", text),
                ("state", text),
                ("error", text),
                ("size", pa.int64()),
                ("mtime_ns", pa.int64()),
                ("date", text),
                ("duration_s", number),
                ("start_s", number),
                ("rate", number),
                ("codec", text),
                ("width", pa.int32()),
                ("height", pa.int32()),
                ("clips", pa.int32()),
                ("keep", text),
                ("tags", pa.list_(text)),
                ("indexed", text),
            ]
        ),
        "clips": pa.schema(
            [("entry", text), ("row", pa.int32()), ("vector", pa.list_(pa.float16(), width))]
        ),
        "tokens": pa.schema(
            [
                ("entry", text),
                ("first", pa.int32()),
                ("clips", pa.int32()),
                ("data", pa.large_binary()),
            ]
        ),
        "subtitles": pa.schema(
            [
                ("words", text),
                ("start_s", number),
                ("end_s", number),
                ("text", text),
                ("language", text),
            ]
        ),
    }


def _make_folder(root: str) -> None:
    folder = Path(root)
    try:
        if folder.is_dir() and any(not item.name.startswith(".") for item in folder.iterdir()):
            names = {f"{name}.lance" for name in NAMES} | {"locks"}
            strange = [item.name for item in folder.iterdir() if item.name not in names]
            if strange:
                raise LibraryError(
                    f"{root}: holds {strange[0]} and no library; name a new or an empty folder"
                )
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(root, error) from error


def _uri(root: str, name: str) -> str:
    return (
        f"{root.rstrip('/')}/{name}.lance" if is_remote(root) else str(Path(root, f"{name}.lance"))
    )


def damaged(uri: str, error: Exception) -> LibraryError:
    """Return the error of a table that cannot be read."""
    line = str(error).strip().partition("\n")[0][:200]
    return LibraryError(f"{uri}: cannot be read ({line}); see `r2rt library check`")


def unwritable(uri: str, error: Exception) -> OutputError:
    """Return the error of a library or table that cannot be written."""
    reason = getattr(error, "strerror", None) or str(error).strip().partition("\n")[0][:200]
    return OutputError(f"{uri}: cannot be written ({reason}); check free space and permissions")
