"""Fetching one file from a hub that is well, ill or hostile."""

from __future__ import annotations

import hashlib
import json
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from r2rt.errors import DownloadError, HashMismatchError, OutputError, QueryError
from r2rt.model import download as module
from r2rt.model.download import download, shown_url
from r2rt.model.partial_file import locked_part
from r2rt.retry import TransientError
from tests.conftest import CHECKOUT
from tests.r2rt.hub import Hub, Step, running_hub
from tests.r2rt.permissions import permitting

BODY = random.Random(7).randbytes(700_001)
SHA256 = hashlib.sha256(BODY).hexdigest()
PATH = "repo/resolve/main/model.pth"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(module, "_BACKOFF_S", 0.001)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    with running_hub() as hub:
        hub.add(PATH, BODY)
        yield hub


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "models" / "model.pth"


def left_in(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


class TestWell:
    def test_lands_alone_and_reports_progress(self, hub: Hub, target: Path) -> None:
        reported: list[tuple[int, int | None]] = []
        path = download(
            f"{hub.url}/{PATH}",
            target,
            sha256=SHA256,
            size=len(BODY),
            progress=lambda done, total: reported.append((done, total)),
        )
        assert path == target
        assert target.read_bytes() == BODY
        assert left_in(target) == ["model.pth"]
        assert [done for done, _ in reported] == sorted(done for done, _ in reported)
        assert reported[-1] == (len(BODY), len(BODY))

    @pytest.mark.parametrize("length", [8, 20, 64])
    def test_the_hash_may_be_a_prefix_in_any_case(
        self, hub: Hub, target: Path, length: int
    ) -> None:
        download(f"{hub.url}/{PATH}", target, sha256=SHA256[:length].upper())
        assert target.read_bytes() == BODY

    @pytest.mark.parametrize("text", ["", SHA256[:7], "g" * 64, SHA256 + "0"])
    def test_what_is_no_hash_is_refused(self, hub: Hub, target: Path, text: str) -> None:
        with pytest.raises(QueryError, match="sha256"):
            download(f"{hub.url}/{PATH}", target, sha256=text)
        assert not hub.requests

    def test_what_is_there_is_not_fetched_again(self, hub: Hub, target: Path) -> None:
        download(f"{hub.url}/{PATH}", target, sha256=SHA256)
        download("http://127.0.0.1:9/nobody/listens", target, sha256=SHA256)
        assert len(hub.requests) == 1

    def test_what_is_there_and_wrong_is_replaced(self, hub: Hub, target: Path) -> None:
        target.parent.mkdir()
        target.write_bytes(b"old")
        download(f"{hub.url}/{PATH}", target, sha256=SHA256)
        assert target.read_bytes() == BODY

    def test_without_a_hash_it_is_fetched_anew(self, hub: Hub, target: Path) -> None:
        download(f"{hub.url}/{PATH}", target, sha256=None)
        hub.files[PATH] = b"newer"
        download(f"{hub.url}/{PATH}", target, sha256=None)
        assert target.read_bytes() == b"newer"

    def test_an_empty_file_is_a_file(self, hub: Hub, target: Path) -> None:
        hub.files[PATH] = b""
        download(f"{hub.url}/{PATH}", target, sha256=hashlib.sha256(b"").hexdigest(), size=0)
        assert target.read_bytes() == b""
        assert left_in(target) == ["model.pth"]

    def test_redirects_are_followed(self, hub: Hub, target: Path) -> None:
        with running_hub() as cdn:
            url = cdn.add("blob/1", BODY)
            location = {"Location": f"{url}?signature=secret"}
            hub.always[PATH] = Step(status=302, headers=location)
            download(f"{hub.url}/{PATH}", target, sha256=SHA256)
            assert cdn.sent("blob/1") == [len(BODY)]
        assert target.read_bytes() == BODY

    def test_paths_and_file_urls_are_copied(self, tmp_path: Path, target: Path) -> None:
        source = tmp_path / "a file.pth"
        source.write_bytes(BODY)
        for url in (str(source), source.as_uri()):
            download(url, target, sha256=SHA256, size=len(BODY))
            assert target.read_bytes() == BODY
            assert left_in(target) == ["model.pth"]
            target.unlink()

    def test_proxies_are_respected(
        self, hub: Hub, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", hub.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        hub.files["http://models.invalid/m"] = BODY  # a proxy is asked for the whole URL
        download("http://models.invalid/m", target, sha256=SHA256)
        assert target.read_bytes() == BODY


class TestResume:
    def test_a_cut_connection_goes_on_where_it_stopped(self, hub: Hub, target: Path) -> None:
        hub.steps[PATH] = [Step(cut_after=300_000), Step(cut_after=200_000)]
        download(f"{hub.url}/{PATH}", target, sha256=SHA256)
        assert target.read_bytes() == BODY
        assert hub.sent(PATH) == [300_000, 200_000, 200_001]
        assert hub.requests[1].range == "bytes=300000-"
        assert hub.requests[1].if_range is not None

    def test_a_later_run_goes_on_where_an_earlier_stopped(self, hub: Hub, target: Path) -> None:
        hub.steps[PATH] = [Step(cut_after=600_000)]
        hub.always[PATH] = Step(status=503)
        with pytest.raises(DownloadError, match=r"503.*goes on where it stopped"):
            download(f"{hub.url}/{PATH}", target, sha256=SHA256)
        assert not target.exists()
        hub.always.clear()
        reported: list[int] = []
        download(
            f"{hub.url}/{PATH}",
            target,
            sha256=SHA256,
            progress=lambda done, _: reported.append(done),
        )
        assert target.read_bytes() == BODY
        assert hub.sent(PATH)[-1] == 100_001
        assert reported[0] == 600_000
        assert left_in(target) == ["model.pth"]

    @pytest.mark.parametrize("known", [True, False], ids=["hash", "no-hash"])
    def test_a_server_without_ranges_sends_it_all_again(
        self, hub: Hub, target: Path, known: bool
    ) -> None:
        hub.steps[PATH] = [Step(cut_after=300_000), Step(ignore_range=True)]
        download(f"{hub.url}/{PATH}", target, sha256=SHA256 if known else None)
        assert target.read_bytes() == BODY
        assert hub.sent(PATH) == [300_000, len(BODY)]

    def test_a_file_that_changed_is_begun_again(self, hub: Hub, target: Path) -> None:
        hub.always[PATH] = Step(status=503)
        hub.steps[PATH] = [Step(cut_after=300_000)]
        with pytest.raises(DownloadError):
            download(f"{hub.url}/{PATH}", target, sha256=None)
        hub.always.clear()
        newer = BODY[::-1]
        hub.files[PATH] = newer
        download(f"{hub.url}/{PATH}", target, sha256=None)
        assert target.read_bytes() == newer

    def test_without_validator_and_hash_nothing_is_resumed(self, hub: Hub, target: Path) -> None:
        hub.etags = False
        hub.always[PATH] = Step(status=503)
        hub.steps[PATH] = [Step(cut_after=300_000)]
        with pytest.raises(DownloadError):
            download(f"{hub.url}/{PATH}", target, sha256=None)
        hub.always.clear()
        hub.files[PATH] = BODY[::-1]
        download(f"{hub.url}/{PATH}", target, sha256=None)
        assert target.read_bytes() == BODY[::-1]

    def test_a_range_that_begins_elsewhere_is_not_appended(self, hub: Hub, target: Path) -> None:
        hub.steps[PATH] = [Step(cut_after=300_000), Step(shift=10)]
        download(f"{hub.url}/{PATH}", target, sha256=None)
        assert target.read_bytes() == BODY

    def test_a_size_of_thousands_of_digits_is_no_size(self, target: Path) -> None:
        """Python refuses to read such numbers."""
        import httpx2

        digits = "9" * 5000
        target.parent.mkdir()
        with locked_part(target) as part:
            part.write(b"12345")
            found = httpx2.Response(206, headers={"Content-Range": f"bytes 5-9/{digits}"})
            with pytest.raises(TransientError, match="another part"):
                module._begin(found, "http://hub/file", part, 5)
            found = httpx2.Response(200, headers={"Content-Length": digits})
            assert module._begin(found, "http://hub/file", part, 0) is None

    @pytest.mark.parametrize("length", [len(BODY), len(BODY) + 5], ids=["whole", "longer"])
    def test_a_part_that_is_wrong_is_given_up(self, hub: Hub, target: Path, length: int) -> None:
        target.parent.mkdir()
        part = target.with_name("model.pth.part")
        part.write_bytes(bytes(length))
        download(f"{hub.url}/{PATH}", target, sha256=SHA256)
        assert target.read_bytes() == BODY
        assert left_in(target) == ["model.pth"]

    def test_a_whole_part_needs_no_bytes(self, hub: Hub, target: Path) -> None:
        target.parent.mkdir()
        target.with_name("model.pth.part").write_bytes(BODY)
        download(f"{hub.url}/{PATH}", target, sha256=SHA256)
        assert sum(hub.sent(PATH)) == 0
        assert target.read_bytes() == BODY

    @pytest.mark.parametrize(
        "state", [b"\xff", b"[1]", b'{"url": 5, "validator": [0]}', b"[" * 10**5]
    )
    def test_a_damaged_note_beside_the_part_does_no_harm(
        self, hub: Hub, target: Path, state: bytes
    ) -> None:
        target.parent.mkdir()
        target.with_name("model.pth.part").write_bytes(BODY[:1000])
        target.with_name("model.pth.part.json").write_bytes(state)
        download(f"{hub.url}/{PATH}", target, sha256=SHA256)
        assert target.read_bytes() == BODY
        assert left_in(target) == ["model.pth"]

    def test_a_part_from_another_mirror_is_resumed_under_the_hash(
        self, hub: Hub, target: Path
    ) -> None:
        hub.always[PATH] = Step(status=503)
        hub.steps[PATH] = [Step(cut_after=500_000)]
        with pytest.raises(DownloadError):
            download(f"{hub.url}/{PATH}", target, sha256=SHA256)
        with running_hub() as other:
            url = other.add("m", BODY)
            download(url, target, sha256=SHA256)
            assert other.sent("m") == [200_001]
        assert target.read_bytes() == BODY


class TestIll:
    @pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
    def test_what_may_pass_is_tried_again(self, hub: Hub, target: Path, status: int) -> None:
        hub.steps[PATH] = [Step(status=status), Step(status=status, headers={"Retry-After": "0"})]
        download(f"{hub.url}/{PATH}", target, sha256=SHA256)
        assert target.read_bytes() == BODY

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
    def test_what_will_not_pass_is_not(self, hub: Hub, target: Path, status: int) -> None:
        hub.always[PATH] = Step(status=status)
        with pytest.raises(DownloadError, match=f"HTTP {status}"):
            download(f"{hub.url}/{PATH}", target, sha256=SHA256)
        assert len(hub.requests) == 1
        assert left_in(target) == []

    def test_tries_are_bounded(self, hub: Hub, target: Path) -> None:
        hub.always[PATH] = Step(status=500)
        with pytest.raises(DownloadError, match=r"500.*5 times in a row"):
            download(f"{hub.url}/{PATH}", target, sha256=SHA256)
        assert len(hub.requests) == 5

    def test_nobody_listens(self, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_BACKOFF_S", 0.001)
        with pytest.raises(DownloadError, match="check the network or proxy"):
            download("http://127.0.0.1:9/model", target, sha256=SHA256)

    def test_a_hanging_server_is_left(
        self, hub: Hub, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_READ_TIMEOUT_S", 0.1)
        hub.steps[PATH] = [Step(pause_s=0.5)]
        download(f"{hub.url}/{PATH}", target, sha256=SHA256)
        assert target.read_bytes() == BODY

    def test_redirects_in_a_circle(self, hub: Hub, target: Path) -> None:
        hub.always[PATH] = Step(status=302, headers={"Location": f"/{PATH}"})
        with pytest.raises(DownloadError, match="redirects"):
            download(f"{hub.url}/{PATH}", target, sha256=SHA256)

    @pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://x/y", "http://[", ""])
    def test_redirects_to_nowhere(self, hub: Hub, target: Path, location: str) -> None:
        hub.always[PATH] = Step(status=302, headers={"Location": location} if location else {})
        with pytest.raises(DownloadError):
            download(f"{hub.url}/{PATH}", target, sha256=None)
        assert not target.exists()

    @pytest.mark.parametrize("url", ["ftp://a/b", "s3://a/b", "http://", "http://[", "/nowhere/x"])
    def test_addresses_that_are_none(self, target: Path, url: str, hub: Hub) -> None:
        with pytest.raises(DownloadError):
            download(url, target, sha256=SHA256)
        assert left_in(target) == []

    def test_a_bad_proxy_setting_is_named(
        self, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", "gopher://x")
        with pytest.raises(DownloadError, match="proxy"):
            download("http://models.invalid/m", target, sha256=SHA256)

    def test_folders_are_no_source(self, tmp_path: Path, target: Path) -> None:
        with pytest.raises(DownloadError, match="no such file"):
            download(str(tmp_path), target, sha256=SHA256)

    def test_secrets_of_an_address_are_not_shown(self, hub: Hub, target: Path) -> None:
        url = f"{hub.url}/nothing?token=secret".replace("http://", "http://user:pass@")
        with pytest.raises(DownloadError) as raised:
            download(url, target, sha256=SHA256)
        assert "secret" not in str(raised.value)
        assert "pass" not in str(raised.value)
        assert shown_url(url) == f"{hub.url}/nothing"


class TestHostile:
    def test_wrong_bytes_never_land(self, hub: Hub, target: Path) -> None:
        hub.always[PATH] = Step(corrupt=True)
        with pytest.raises(HashMismatchError, match=SHA256[:16]):
            download(f"{hub.url}/{PATH}", target, sha256=SHA256)
        assert left_in(target) == []

    def test_wrong_bytes_leave_what_was_there(self, hub: Hub, target: Path) -> None:
        target.parent.mkdir()
        target.write_bytes(b"old")
        hub.always[PATH] = Step(corrupt=True)
        with pytest.raises(HashMismatchError):
            download(f"{hub.url}/{PATH}", target, sha256=SHA256)
        assert left_in(target) == ["model.pth"]
        assert target.read_bytes() == b"old"

    def test_an_endless_body_is_cut_at_the_size(self, hub: Hub, target: Path) -> None:
        hub.always[PATH] = Step(endless=True)
        with pytest.raises(DownloadError, match="more than"):
            download(f"{hub.url}/{PATH}", target, sha256=SHA256, size=len(BODY))
        assert left_in(target) == []

    def test_an_endless_body_is_cut_at_the_most(self, hub: Hub, target: Path) -> None:
        hub.always[PATH] = Step(endless=True)
        with pytest.raises(DownloadError, match="more than the 1000 bytes"):
            download(f"{hub.url}/{PATH}", target, sha256=None, max_size=1000)
        assert left_in(target) == []

    @pytest.mark.parametrize("size", [0, 10, len(BODY) - 1, len(BODY) + 1])
    def test_another_size_is_refused_before_it_comes(
        self, hub: Hub, target: Path, size: int, tmp_path: Path
    ) -> None:
        local = tmp_path / "local"
        local.write_bytes(BODY)
        for url in (f"{hub.url}/{PATH}", str(local)):
            with pytest.raises(DownloadError, match=f"has {len(BODY)} bytes, expected {size}"):
                download(url, target, sha256=SHA256, size=size)
            assert left_in(target) == []

    def test_a_body_nobody_can_store_is_refused_before_it_comes(
        self, hub: Hub, target: Path
    ) -> None:
        hub.always[PATH] = Step(announce=10**15)
        with pytest.raises(OutputError, match="MB are free"):
            download(f"{hub.url}/{PATH}", target, sha256=SHA256)
        assert left_in(target) == []

    def test_compressed_answers_are_refused(self, hub: Hub, target: Path) -> None:
        hub.always[PATH] = Step(headers={"Content-Encoding": "gzip"})
        with pytest.raises(DownloadError, match="gzip"):
            download(f"{hub.url}/{PATH}", target, sha256=None)
        assert left_in(target) == []


class TestDisk:
    def test_a_full_disk_is_an_output_error_and_resumes(self, hub: Hub, target: Path) -> None:
        """A limit on the size of files stands in for a full disk: a write fails half-way."""
        code = (
            "import resource, sys\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))\n"
            "from pathlib import Path\n"
            "from r2rt.model.download import download\n"
            "from r2rt.errors import OutputError\n"
            "try:\n"
            "    download(sys.argv[1], Path(sys.argv[2]), sha256=sys.argv[3])\n"
            "except OutputError as error:\n"
            "    print(error)\n"
            "    sys.exit(error.exit_code)\n"
        )
        assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
        run = subprocess.run(
            [sys.executable, "-c", code, f"{hub.url}/{PATH}", str(target), SHA256],
            capture_output=True,
            text=True,
            cwd=CHECKOUT,
            check=False,
        )
        assert run.returncode == OutputError.exit_code, run.stderr
        assert "make room" in run.stdout
        assert not target.exists()
        download(f"{hub.url}/{PATH}", target, sha256=SHA256)
        assert target.read_bytes() == BODY
        assert hub.sent(PATH)[-1] == len(BODY) - 400_000

    def test_a_folder_without_permission(self, hub: Hub, tmp_path: Path) -> None:
        with permitting(tmp_path, 0o555), pytest.raises(OutputError, match="R2RT_HOME"):
            download(f"{hub.url}/{PATH}", tmp_path / "m", sha256=SHA256)

    def test_a_file_where_a_folder_should_be(self, hub: Hub, tmp_path: Path) -> None:
        (tmp_path / "models").write_bytes(b"")
        with pytest.raises(OutputError, match="cannot be written"):
            download(f"{hub.url}/{PATH}", tmp_path / "models" / "m", sha256=SHA256)

    def test_a_folder_where_the_file_should_be(self, hub: Hub, target: Path) -> None:
        target.mkdir(parents=True)
        with pytest.raises(OutputError, match="cannot be written"):
            download(f"{hub.url}/{PATH}", target, sha256=SHA256)
        assert target.is_dir()


class TestTogether:
    def test_threads_share_one_download(self, hub: Hub, target: Path) -> None:
        hub.always[PATH] = Step(pause_s=0.005)
        failures: list[BaseException] = []

        def fetch() -> None:
            try:
                download(f"{hub.url}/{PATH}", target, sha256=SHA256)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=fetch) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert target.read_bytes() == BODY
        assert hub.sent(PATH) == [len(BODY)]
        assert left_in(target) == ["model.pth"]

    def test_processes_share_one_download(self, hub: Hub, target: Path) -> None:
        hub.always[PATH] = Step(pause_s=0.005)
        processes = [fetch_in_process(hub, target) for _ in range(3)]
        assert [process.wait(60) for process in processes] == [0, 0, 0]
        assert target.read_bytes() == BODY
        assert hub.sent(PATH) == [len(BODY)]
        assert left_in(target) == ["model.pth"]

    def test_a_killed_download_is_resumed(self, hub: Hub, target: Path) -> None:
        hub.steps[PATH] = [Step(pause_s=0.05)]
        process = fetch_in_process(hub, target)
        part = target.with_name("model.pth.part")
        wait_until(lambda: part.exists() and part.stat().st_size > 100_000)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        kept = part.stat().st_size
        assert not target.exists()
        assert json.loads(target.with_name("model.pth.part.json").read_text())["validator"]
        download(f"{hub.url}/{PATH}", target, sha256=SHA256)
        assert target.read_bytes() == BODY
        assert hub.sent(PATH)[-1] == len(BODY) - kept
        assert left_in(target) == ["model.pth"]


def fetch_in_process(hub: Hub, target: Path) -> subprocess.Popen[bytes]:
    code = (
        "import sys\nfrom pathlib import Path\nfrom r2rt.model.download import download\n"
        "download(sys.argv[1], Path(sys.argv[2]), sha256=sys.argv[3])\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, f"{hub.url}/{PATH}", str(target), SHA256], cwd=CHECKOUT
    )


def wait_until(condition: object, timeout_s: float = 30.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)
