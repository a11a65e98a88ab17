"""Paths, files and names of people who mean no good."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from r2rt.errors import NotAVideoError
from r2rt.service.containers import container_of, why_not_playable
from r2rt.service.settings import Settings
from r2rt.service.videos import file_facts
from tests.r2rt.service.conftest import DEMO_FOLDER, Run, Served

SHAPES = DEMO_FOLDER / "shapes.mp4"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder that videos may be added from, beside one that they may not."""
    folder = tmp_path / "allowed"
    folder.mkdir()
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(SHAPES.read_bytes())
    (tmp_path / "allowed-too").mkdir()
    (tmp_path / "allowed-too" / "film.mp4").write_bytes(SHAPES.read_bytes())
    (folder / "film.mp4").write_bytes(SHAPES.read_bytes())
    (folder / "link.mp4").symlink_to(secret)
    (folder / "out").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.mp4")
    return folder


@pytest.fixture
def settings(root: Path, tmp_path: Path) -> Settings:
    return Settings(folder=tmp_path / "service", roots=(root,), model="demo", rate=0)


@pytest.mark.parametrize(
    "name",
    [
        "../secret.mp4",
        "link.mp4",
        "out/secret.mp4",
        "out/allowed/../secret.mp4",
        "../allowed-too/film.mp4",
        "pipe.mp4",
        "absent.mp4",
        "",
        ".",
        "film.mp4\0.txt",
        "%2e%2e/secret.mp4",
        "x" * 4000,
    ],
)
def test_no_path_leads_out_of_the_folders_that_are_allowed(
    served: Run, root: Path, name: str
) -> None:
    async def test(it: Served) -> None:
        response = await it.post("/videos", {"path": f"{root}/{name}", "encode": False})
        assert (response.status_code, response.json()["code"]) == (403, "path-not-allowed")
        # Whether a file is there is nobody's business.
        other = await it.post("/videos", {"path": str(root / "absent"), "encode": False})
        assert other.json() == response.json()
        for path in ("/dev/zero", "/proc/self/environ", "/etc/passwd"):
            assert (await it.post("/videos", {"path": path})).status_code == 403

    served(test)


def test_the_interface_does_not_say_where_files_are(served: Run, root: Path) -> None:
    async def test(it: Served) -> None:
        video = await it.post("/videos", {"path": str(root / "film.mp4"), "encode": False})
        assert video.status_code == 201
        for path in ("", f"/{video.json()['id']}"):
            assert str(root) not in (await it.get(f"/videos{path}")).text

    served(test)


@pytest.mark.parametrize(
    "path",
    [
        "/videos/../../../etc/passwd",
        "/videos/%2e%2e%2f%2e%2e%2fetc%2fpasswd/file",
        "/jobs/0123456789abcdef/files/..%2f..%2fservice.db",
        "/jobs/0123456789abcdef/files/%2fetc%2fpasswd",
        "/uploads/..%2fservice.db",
    ],
)
def test_no_address_reads_a_file(served: Run, path: str) -> None:
    async def test(it: Served) -> None:
        response = await it.get(path, headers={"Tus-Resumable": "1.0.0"})
        assert response.status_code in (404, 405, 422)
        assert "root:" not in response.text
        assert b"SQLite" not in response.content

    served(test)


def playlists(target: Path) -> dict[str, str]:
    return {
        "hls.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n",
        "hls.m3u8": f"#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:1,\nfile://{target}\n",
        "concat.mp4": f"ffconcat version 1.0\nfile '{target}'\n",
        "dash.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" '
        f'profiles="urn:mpeg:dash:profile:isoff-live:2011"><BaseURL>{target}</BaseURL></MPD>',
        "sdp.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\n"
        "m=video 5004 RTP/AVP 96\n",
        "text.mp4": "just text\n" * 100,
        "svg.mp4": '<svg xmlns="http://www.w3.org/2000/svg"><image href="/etc/passwd"/></svg>',
        "lavfi.mp4": "testsrc",
        "empty.mp4": "",
    }


@pytest.mark.parametrize("name", sorted(playlists(Path("x"))))
def test_files_that_name_other_files_are_no_videos(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text(playlists(SHAPES)[name])
    with pytest.raises(NotAVideoError):
        container_of(file)


JOBS: dict[str, dict[str, Any]] = {
    "encode": {},
    "ground": {"queries": ["a dog"]},
    "highlights": {},
    "summarize": {},
    "clips": {"moments": [{"query": "x", "start_s": 0, "end_s": 1}]},
    "export": {"format": "edl", "moments": [{"query": "x", "start_s": 0, "end_s": 1}]},
    "index": {},
}


def test_no_job_reads_what_a_fetched_playlist_names(served: Run, recording: Path) -> None:
    async def test(it: Served) -> None:
        video = it.service.videos.add_url("http://films.example/hls.m3u8", "hls.m3u8")
        video.path.parent.mkdir(parents=True)
        video.path.write_text(playlists(recording)["hls.mp4"])
        for kind, request in JOBS.items():
            of = {"videos": [video.id]} if kind == "ground" else {"video": video.id}
            job = await it.run(kind, **request, **of)
            assert (job["error"] or {}).get("code") == "NotAVideoError", (kind, job["result"])
        body = JOBS["export"] | {"video": video.id}
        assert (await it.post("/export", body)).json()["code"] == "NotAVideoError"

    served(test)


def test_images_of_a_pattern_are_no_video(tmp_path: Path) -> None:
    from PIL import Image

    file = tmp_path / "frame%03d.png"
    Image.new("RGB", (8, 8)).save(file)
    with pytest.raises(NotAVideoError):
        container_of(file)


@pytest.mark.parametrize("at", [0, 40, 400, 4000])
def test_damaged_media_is_a_problem_and_no_fault(served: Run, root: Path, at: int) -> None:
    content = bytearray(SHAPES.read_bytes())
    content[at : at + 64] = random.Random(at).randbytes(64)
    (root / "damaged.mp4").write_bytes(content[: len(content) - at])

    async def test(it: Served) -> None:
        response = await it.post("/videos", {"path": str(root / "damaged.mp4"), "encode": False})
        assert response.status_code in (201, 422)

    served(test)


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>'])
def test_names_and_queries_are_data_of_a_type_that_runs_nothing(
    served: Run, root: Path, text: str
) -> None:
    name = text.replace("/", "_") + ".mp4"
    (root / name).write_bytes(SHAPES.read_bytes())

    async def test(it: Served) -> None:
        response = await it.post("/videos", {"path": str(root / name), "encode": False})
        video = response.json()
        assert video["name"] == name
        moments = [{"query": text, "start_s": 0, "end_s": 2}]
        for format_ in ("csv", "vtt", "fcpxml", "json", "srt"):
            body = {"video": video["id"], "format": format_, "moments": moments}
            exported = await it.post("/export", body)
            assert exported.status_code == 200, exported.text
            type_ = exported.headers["content-type"]
            assert "html" not in type_
            assert exported.headers["content-disposition"].startswith("attachment")
            assert "<" not in exported.headers["content-disposition"]
        wrong = await it.get(f"/videos/{text}")
        assert "html" not in wrong.headers["content-type"]

    served(test)


def test_what_browsers_play() -> None:
    facts = file_facts(SHAPES)
    assert why_not_playable(facts) is None
    for change in ({"codec": "prores"}, {"container": "avi"}, {"audio": [{"codec": "pcm_s16le"}]}):
        assert why_not_playable(facts | change) is not None
