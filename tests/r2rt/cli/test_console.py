"""What every command writes with: files whole or not at all, devices never replaced."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from r2rt.cli.console import note, print_table, printable, progress, warn, write_text
from r2rt.errors import OutputError
from tests.conftest import CHECKOUT


class TestWriteText:
    def test_a_file_is_written_and_replaced(self, tmp_path: Path) -> None:
        path = tmp_path / "out.json"
        for text in ("first", "ü\n"):
            write_text(path, text)
            assert path.read_text(encoding="utf-8") == text
        assert list(tmp_path.iterdir()) == [path]

    def test_a_link_stays_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to("real")
        write_text(tmp_path / "link", "text")
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "real").read_text() == "text"

    def test_a_pipe_is_written_to(self, tmp_path: Path) -> None:
        path = tmp_path / "pipe"
        os.mkfifo(path)
        read: list[str] = []
        reader = threading.Thread(target=lambda: read.append(path.read_text()))
        reader.start()
        write_text(path, "text")
        reader.join()
        assert read == ["text"]
        assert stat.S_ISFIFO(path.stat().st_mode)

    def test_a_full_device_is_an_output_error_and_stays_a_device(self) -> None:
        with pytest.raises(OutputError, match="No space left"):
            write_text(Path("/dev/full"), "text")
        assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)

    def test_line_ends_stay_where_text_files_have_others(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plain_open = io.open

        def open_on_windows(*arguments: Any, **options: Any) -> Any:
            file = plain_open(*arguments, **options)
            if isinstance(file, io.TextIOWrapper) and options.get("newline") is None:
                is_usual = len(arguments) < 6 or arguments[5] is None
                file.reconfigure(newline="\r\n" if is_usual else arguments[5])
            return file

        monkeypatch.setattr(io, "open", open_on_windows)
        (tmp_path / "lines").write_text("a\n")
        assert (tmp_path / "lines").read_bytes() == b"a\r\n"
        write_text(tmp_path / "table.csv", "a,b\r\n1,2\r\n")
        assert (tmp_path / "table.csv").read_bytes() == b"a,b\r\n1,2\r\n"
        stdout = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(stdout, newline="\r\n"))
        write_text(None, "a,b\r\n1,2\r\n")
        assert stdout.getvalue() == b"a,b\r\n1,2\r\n"

    def test_a_device_that_is_a_pipe_may_be_named(self, tmp_path: Path) -> None:
        code = (
            "from pathlib import Path; from r2rt.cli.console import write_text; "
            "write_text(Path('/dev/stdout'), 'text')"
        )
        command = [sys.executable, "-c", code]
        assert subprocess.check_output(command, cwd=CHECKOUT) == b"text"

    @pytest.mark.parametrize("name", ["", "nowhere/out", "file/out"])
    def test_what_is_no_place(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(OutputError):
            write_text(tmp_path / name, "text")
        assert [path.name for path in tmp_path.iterdir()] == ["file"]

    def test_stdout(self, capsys: pytest.CaptureFixture[str]) -> None:
        write_text(None, "text")
        assert capsys.readouterr().out == "text"


def test_a_plain_table_is_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "size"), [("a", "10 MB"), ("longer", ""), ("x\x1b[2J\n", "[bold]")])
    assert capsys.readouterr().out == ("name    size\na       10 MB\nlonger\nx�[2J�  [bold]\n")


def test_columns_without_names_have_no_header(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("", ""), [("name", "demo")])
    assert capsys.readouterr().out == "name  demo\n"


def test_nothing_that_drives_a_terminal_is_printable() -> None:
    assert printable("ü 日本 a-b") == "ü 日本 a-b"
    assert printable("a\x1b[31m\r\n\u202e") == "a�[31m���"


class TestProgress:
    def test_quiet_is_quiet(self, capsys: pytest.CaptureFixture[str]) -> None:
        with progress("pulling", unit="B", quiet=True) as update:
            update(1, None)
        assert capsys.readouterr() == ("", "")

    def test_a_log_gets_a_line_now_and_then(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = iter([0.0, 1.0, 10.0, 11.0, 21.0])
        monkeypatch.setattr(time, "monotonic", lambda: next(clock))
        with progress("encoding", unit="clips") as update:
            update(1, 75)
            update(20, 75)
            update(21, 75)
            update(40, None)
        out, err = capsys.readouterr()
        assert out == ""
        assert err == "r2rt: encoding: 20 of 75 clips\nr2rt: encoding: 40 clips\n"

    def test_a_terminal_gets_a_bar(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        warn("while stderr is no terminal")
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        for unit in ("B", "clips"):
            with progress(f"some {unit}", total=10, unit=unit) as update:
                update(5, 10)
            assert f"some {unit}" in terminal.getvalue()


def test_messages_follow_stderr_and_cannot_drive_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    warn("bad \x1b[2J\nr2rt: error: forged\x9b31m.mp4")
    note("a note", quiet=False)
    note("another", quiet=True)
    forged = "r2rt: warning: bad �[2J�r2rt: error: forged�31m.mp4\n"
    assert capsys.readouterr() == ("", forged + "r2rt: a note\n")


def test_a_reader_of_stderr_that_has_enough_does_not_end_the_command() -> None:
    code = (
        "from r2rt.cli.console import warn, write_text; "
        "[warn('x' * 70000) for _ in range(2)]; write_text(None, 'the result')"
    )
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        command = [sys.executable, "-c", code]
        result = subprocess.run(
            command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=closed, check=False
        )
    assert (result.returncode, result.stdout) == (0, b"the result")


def test_messages_stand_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress("videos", total=3, unit="videos") as update:
        update(1, 3)
        with progress("encoding", unit="clips") as inner:  # a terminal has one bar
            inner(1, 2)
        warn("bad.mp4: a message [bold]")
    assert "r2rt: warning: bad.mp4: a message [bold]\n" in terminal.getvalue()
    assert "encoding" not in terminal.getvalue()
    assert "videos" in terminal.getvalue()


@pytest.mark.parametrize(
    ("asked", "expected"),
    [(None, "a ü 日本\r\n".encode()), ("cp1252", "a ü ??\r\n".encode("cp1252"))],
)
def test_pipes_of_windows_get_utf_8_unless_another_encoding_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, asked: str | None, expected: bytes
) -> None:
    monkeypatch.setattr("r2rt.portable.sys", SimpleNamespace(platform="win32"))
    monkeypatch.delenv("PYTHONIOENCODING", raising=False)
    if asked is not None:
        monkeypatch.setenv("PYTHONIOENCODING", asked)
    stdout = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(stdout, encoding="cp1252"))
    write_text(None, "a ü 日本\r\n")
    assert stdout.getvalue() == expected


def test_stdout_that_is_not_utf_8_gets_marks(tmp_path: Path) -> None:
    code = "from r2rt.cli.console import write_text; write_text(None, 'a ü\\udc80 b')"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-c", code]
    assert subprocess.check_output(command, cwd=CHECKOUT, env=environment) == b"a ?? b"
