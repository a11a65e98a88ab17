"""Who is let in: tokens, scopes, hosts, origins, limits; and what every response says."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import unquote

import pytest

from r2rt.service.guard import Limiter
from r2rt.service.settings import Settings
from r2rt.service.tokens import Scope, needed_scope
from tests.r2rt.service.conftest import API, Run, Served, serving

VIDEOS = f"{API}/videos"


def with_token(
    served: Run, scope: Scope = "write"
) -> Callable[[Callable[[Served, dict[str, str]], Awaitable[None]]], None]:
    """Run a test with a service that has a token of one scope."""

    def run(test: Callable[[Served, dict[str, str]], Awaitable[None]]) -> None:
        async def start(it: Served) -> None:
            token = it.service.tokens.add("me", (scope,))
            await test(it, {"Authorization": f"Bearer {token}"})

        served(start)

    return run


def test_bad_tokens_are_refused_and_the_right_one_is_not(served: Run) -> None:
    async def test(it: Served, good: dict[str, str]) -> None:
        token = good["Authorization"].removeprefix("Bearer ")
        assert (await it.client.get(VIDEOS, headers=good)).status_code == 200
        bad = [
            "",
            "Bearer",
            "Bearer ",
            f"Basic {token}",
            f"Bearer {token[:-1]}",
            f"Bearer {token}x",
        ]
        bad += [f"Bearer {token.upper()}", "Bearer null", "Bearer %00", "Bearer ' OR 1=1 --"]
        for value in bad:
            response = await it.client.get(VIDEOS, headers={"Authorization": value})
            assert response.status_code == 401, value
            assert response.headers["www-authenticate"].startswith("Bearer")
            assert response.headers["content-type"] == "application/problem+json"
        assert (await it.client.get(VIDEOS)).status_code == 401
        # A token in the address would be in logs, and is none.
        assert (await it.client.get(VIDEOS, params={"token": token})).status_code == 401
        it.service.tokens.remove("me")
        assert it.service.tokens.client(token) is None

    with_token(served)(test)


def test_tokens_are_kept_as_hashes_alone(served: Run) -> None:
    async def test(it: Served, good: dict[str, str]) -> None:
        token = good["Authorization"].removeprefix("Bearer ")
        rows = it.service.database.rows("SELECT * FROM tokens")
        assert [row["sha256"] for row in rows] == [hashlib.sha256(token.encode()).hexdigest()]
        files = it.service.settings.folder.glob("service.db*")
        assert all(token.encode() not in file.read_bytes() for file in files)

    with_token(served)(test)


@pytest.mark.parametrize("scope", ["read", "write", "admin"])
def test_scopes_allow_what_they_say(served: Run, scope: Scope) -> None:
    calls = {"read": ("GET", "/videos"), "write": ("POST", "/jobs"), "admin": ("POST", "/watches")}

    async def test(it: Served, good: dict[str, str]) -> None:
        for needed, (method, path) in calls.items():
            response = await it.client.request(method, f"{API}{path}", headers=good, json={})
            order = list(calls)
            allowed = order.index(scope) >= order.index(needed)
            assert (response.status_code == 403) is not allowed, (scope, needed, response.text)

    with_token(served, scope)(test)


@pytest.mark.parametrize("end", ["%0A", "%0a%0a", "%00", "/%0A", "/x", "x"])
def test_no_way_to_write_an_address_needs_less(served: Run, end: str) -> None:
    """Starlette's routes match before a final line break."""

    async def test(it: Served, good: dict[str, str]) -> None:
        body = {"source": "rtsp://127.0.0.1:9/stream", "queries": ["x"]}
        response = await it.post(f"/watches{end}", body, headers=good)
        assert response.status_code == (400 if "%" in end else 403), response.text
        assert (await it.get("/watches", headers=good)).json() == []
        assert needed_scope("POST", f"{API}/watches{unquote(end)}") == "admin"

    with_token(served)(test)


def test_the_cookie_of_a_session_does_as_a_token_where_no_header_can_be_sent(served: Run) -> None:
    async def test(it: Served, good: dict[str, str]) -> None:
        token = good["Authorization"].removeprefix("Bearer ")
        assert (await it.post("/session", {"token": "wrong"})).status_code == 401
        begun = await it.post("/session", {"token": token})
        cookie = begun.headers["set-cookie"].lower()
        assert begun.status_code == 204
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert (await it.get("/videos")).status_code == 200  # the client keeps it

    with_token(served)(test)


OTHERS = [
    {"Authorization": "Basic dTpw"},
    {"Authorization": ""},
    {"Authorization": "Bearer of-another-time"},
    {"Cookie": "r2rt_token=of-another-time"},
]


@pytest.mark.parametrize("headers", OTHERS)
def test_what_else_is_sent_does_no_harm_where_no_token_is_needed(
    served: Run, headers: dict[str, str]
) -> None:
    async def test(it: Served) -> None:
        for _ in range(3):
            assert (await it.client.get(VIDEOS, headers=headers)).status_code == 200

    served(test)


@pytest.mark.parametrize("headers", OTHERS[:2])
def test_the_header_of_a_proxy_in_front_leaves_the_cookie(
    served: Run, headers: dict[str, str]
) -> None:
    async def test(it: Served, good: dict[str, str]) -> None:
        assert (await it.client.get(VIDEOS, headers=headers)).json()["code"] == "token-missing"
        token = good["Authorization"].removeprefix("Bearer ")
        both = headers | {"Cookie": f"r2rt_token={token}"}
        assert (await it.client.get(VIDEOS, headers=both)).status_code == 200

    with_token(served)(test)


def test_a_malformed_cookie_of_another_service_leaves_ours(served: Run) -> None:
    async def test(it: Served, good: dict[str, str]) -> None:
        token = good["Authorization"].removeprefix("Bearer ")
        for other in ("a[b]=1", "a=b c", 'a="b', "=", "a,b=1"):
            for cookie in (f"{other}; r2rt_token={token}", f"r2rt_token={token}; {other}"):
                response = await it.client.get(VIDEOS, headers={"Cookie": cookie})
                assert response.status_code == 200, cookie
        response = await it.client.get(VIDEOS, headers={"Cookie": "r2rt_token=wrong"})
        assert response.status_code == 401

    with_token(served)(test)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_cookie_of_a_page_over_tls_is_sent_over_tls_alone(served: Run, scheme: str) -> None:
    async def test(it: Served, good: dict[str, str]) -> None:
        token = good["Authorization"].removeprefix("Bearer ")
        # As from behind a proxy: the service itself is asked over http.
        headers = {"Origin": f"{scheme}://127.0.0.1:8080"}
        begun = await it.post("/session", {"token": token}, headers=headers)
        assert begun.status_code == 204
        assert ("secure" in begun.headers["set-cookie"].lower()) is (scheme == "https")

    with_token(served)(test)


def test_trying_tokens_gets_slow_and_the_right_one_is_always_let_in(served: Run) -> None:
    async def test(it: Served, good: dict[str, str]) -> None:
        right = {"token": good["Authorization"].removeprefix("Bearer ")}
        for _ in range(12):
            assert (await it.post("/session", right)).status_code == 204
        codes = [(await it.post("/session", {"token": f"t{n}"})).status_code for n in range(12)]
        assert codes[:10] == [401] * 10
        assert codes[10:] == [429] * 2
        assert (await it.post("/session", right)).status_code == 204

    with_token(served)(test)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8080", 200),
        ("localhost", 200),
        ("[::1]:8080", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example:8080", 421),
        ("", 421),
    ],
)
def test_names_of_others_that_lead_here_are_refused(served: Run, host: str, status: int) -> None:
    async def test(it: Served) -> None:
        response = await it.client.get(VIDEOS, headers={"Host": host})
        assert response.status_code == status

    served(test)


@pytest.mark.parametrize(
    ("allowed", "host", "status"),
    [
        (("videos.example.org",), "videos.example.org:8080", 200),
        (("videos.example.org",), "Videos.Example.org", 200),
        (("videos.example.org",), "evil.example", 421),
        (("videos.example.org",), "127.0.0.1:8080", 421),
        ((), "evil.example", 200),
    ],
)
def test_a_service_for_others_answers_to_the_names_that_are_given_or_to_all(
    settings: Settings, allowed: tuple[str, ...], host: str, status: int
) -> None:
    async def main() -> None:
        changed = dataclasses.replace(settings, host="0.0.0.0", allowed_hosts=allowed)
        async with serving(changed) as it:
            token = it.service.tokens.add("me", ("read",))
            headers = {"Host": host, "Authorization": f"Bearer {token}"}
            response = await it.client.get(VIDEOS, headers=headers)
            assert response.status_code == status, response.text
            health = await it.client.get("/healthz", headers={"Host": host})
            assert health.status_code == 200  # of a container it is asked by any address

    asyncio.run(main())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://127.0.0.1:8080"}, 422),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:8080.evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:9999"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({}, 422),
    ],
)
def test_other_sites_change_nothing(served: Run, headers: dict[str, str], status: int) -> None:
    async def test(it: Served) -> None:
        response = await it.client.post(f"{API}/jobs", headers=headers, json={"kind": "none"})
        assert response.status_code == status
        assert "access-control-allow-origin" not in response.headers

    served(test)


def test_a_body_without_a_type_is_no_json(served: Run) -> None:
    """A form of another site can send text, but not application/json."""

    async def test(it: Served) -> None:
        content = b'{"kind": "encode", "video": "0123456789abcdef"}'
        for type_ in ("text/plain", "application/x-www-form-urlencoded"):
            response = await it.client.post(
                f"{API}/jobs", content=content, headers={"Content-Type": type_}
            )
            assert response.status_code == 422

    served(test)


def test_a_body_may_be_neither_long_nor_slow(settings: Settings) -> None:
    async def endless(pause_s: float) -> AsyncIterator[bytes]:
        while True:
            yield b" " * 65536
            await asyncio.sleep(pause_s)

    async def main() -> None:
        for pause_s, timeout_s, status in ((0, 30.0, 413), (60, 0.2, 408)):
            changed = dataclasses.replace(
                settings, max_body_bytes=1 << 17, body_timeout_s=timeout_s
            )
            async with serving(changed) as it:
                response = await it.client.post(f"{API}/jobs", content=endless(pause_s))
                assert response.status_code == status
                assert response.headers["content-type"] == "application/problem+json"

    asyncio.run(main())


def test_one_client_cannot_ask_without_end(settings: Settings) -> None:
    async def main() -> None:
        async with serving(dataclasses.replace(settings, rate=0.001, burst=5)) as it:
            codes = [(await it.get("/jobs")).status_code for _ in range(8)]
            assert codes == [200] * 5 + [429] * 3
            last = await it.get("/jobs")
            assert int(last.headers["retry-after"]) >= 1
            assert (await it.client.get("/healthz")).status_code == 200

    asyncio.run(main())


def test_clients_do_not_share_a_limit() -> None:
    limiter = Limiter(rate=0.01, burst=2)
    assert [limiter.wait_s("a") for _ in range(2)] == [0, 0]
    assert 0 < limiter.wait_s("a") <= 100
    assert limiter.wait_s("b") == 0


def test_every_response_forbids_what_browsers_should_not_do(served: Run) -> None:
    async def test(it: Served) -> None:
        for path in ("/healthz", VIDEOS, f"{API}/nothing", "/metrics"):
            headers = (await it.client.get(path)).headers
            assert "default-src 'self'" in headers["content-security-policy"]
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert len(headers["x-request-id"]) == 16

    served(test)


def test_the_response_to_a_fault_says_what_every_response_says(
    served: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> None:
        raise KeyError("secret")

    monkeypatch.setattr("r2rt.service.videos.Videos.all", fail)

    async def test(it: Served) -> None:
        response = await it.client.get(VIDEOS, headers={"X-Request-Id": "abc-1"})
        assert (response.status_code, response.json()["code"]) == (500, "internal")
        assert "secret" not in response.text
        assert response.headers["x-request-id"] == "abc-1"
        assert "default-src 'self'" in response.headers["content-security-policy"]
        assert response.headers["cache-control"] == "no-store"

    served(test)
    (line,) = [record for record in caplog.records if record.exc_info]
    assert "secret" in str(line.exc_info)


def test_no_client_adds_figures_by_methods_that_it_invents(served: Run) -> None:
    async def test(it: Served) -> None:
        for method in ("INVENTED", "GET"):
            await it.client.request(method, f"{API}/jobs")
        text = (await it.client.get("/metrics")).text
        assert 'method="GET"' in text
        assert 'method="other"' in text
        assert "INVENTED" not in text

    served(test)


def test_a_request_keeps_its_id_unless_it_is_none(served: Run) -> None:
    async def test(it: Served) -> None:
        for sent, kept in (("abc-1", True), ("a b", False), ("x" * 100, False), ("<b>", False)):
            response = await it.client.get("/healthz", headers={"X-Request-Id": sent})
            assert (response.headers["x-request-id"] == sent) is kept

    served(test)
