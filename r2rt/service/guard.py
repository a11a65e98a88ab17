"""What every request passes before anything else sees it, and every response on its way out."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import cookie_parser
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from r2rt.service.logs import request_id
from r2rt.service.problems import ProblemError, problem_response
from r2rt.service.settings import Settings, is_loopback
from r2rt.service.tokens import SCOPES, Client, Tokens, needed_scope
from r2rt.service.tracing import ended, request_span

__all__ = ["COOKIE", "Guard", "Limiter"]

_log = logging.getLogger(__name__)

COOKIE = "r2rt_token"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_UNSAFE = frozenset(("POST", "PUT", "PATCH", "DELETE"))
# Routes match before a final line break, and patterns of paths in this module do not.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_UPLOAD = re.compile(r"/api/v1/uploads/[0-9a-f]{16}")
# These say nothing that a stranger may not know.
_OPEN = re.compile(
    r"/|/healthz|/readyz|/docs|/openapi\.json|/favicon\.ico|/static/.*|/api/v1/session"
)
_LOCAL = Client("local", frozenset(SCOPES))
# A wrong token costs as much as so many requests.
_WRONG_TOKEN_COSTS = 20
_CLIENTS = 10_000
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'; "
    "form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Limiter:
    """Lets each client ask `rate` times a second on average, and `burst` times at once."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate, self._burst = rate, burst
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, name: str, cost: float = 1.0) -> float:
        """Return 0 and count a request, or how long the client has to wait."""
        if not self._rate:
            return 0.0
        now = time.monotonic()
        left, since = self._left.pop(name, (float(self._burst), now))
        left = min(left + (now - since) * self._rate, self._burst)
        allowed = left >= 1
        self._left[name] = (left - cost if allowed else left, now)
        if len(self._left) > _CLIENTS:
            self._left.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self._rate


class Guard:
    """An ASGI middleware: hosts, origins, tokens, limits, headers, the log.

    Args:
        app: the application to guard.
        settings: limits, and the names that the service goes by.
        tokens: who may ask.
        observe: called with method, route, status and seconds of every request.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        tokens: Tokens,
        observe: Callable[[str, str, int, float], None],
    ) -> None:
        self._app = app
        self._settings = settings
        self._tokens = tokens
        self._observe = observe
        self._local = is_loopback(settings.host)
        self._hosts = {name.lower() for name in settings.allowed_hosts}
        if self._local:
            self._hosts |= {"localhost", "127.0.0.1", "[::1]", settings.host.lower()}
        self._limiter = Limiter(settings.rate, settings.burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        id_ = headers.get("x-request-id", "")
        if not _REQUEST_ID.fullmatch(id_):
            id_ = secrets.token_hex(8)
        token = request_id.set(id_)
        began, status, started = time.perf_counter(), 500, False

        async def send_marked(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                out = MutableHeaders(scope=message)
                out["X-Request-Id"] = id_
                for name, value in _HEADERS.items():
                    out.setdefault(name, value)
                if scope["path"].startswith("/api/"):
                    out.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            with request_span(scope["method"], scope["path"], headers) as span:
                try:
                    try:
                        self._admit(scope, headers)
                    except ProblemError as problem:
                        await problem.response()(scope, receive, send_marked)
                    else:
                        await self._app(scope, self._limited(scope, receive), send_marked)
                except Exception as error:
                    if started:
                        raise
                    # Here, since what the framework sends of itself lacks our headers.
                    _log.exception("%s %s failed", scope["method"], scope["path"][:200])
                    span.record_exception(error)
                    await _fault(error)(scope, receive, send_marked)
                finally:
                    ended(span, scope["method"], _route(scope), status)
        finally:
            took_s, route = time.perf_counter() - began, _route(scope)
            self._observe(scope["method"], route, status, took_s)
            client = scope.get("state", {}).get("owner")
            _log.info(
                "%s %s %d",
                *(scope["method"], scope["path"][:200], status),
                extra={"route": route, "status": status, "took_s": round(took_s, 4)}
                | {"client": client},
            )
            request_id.reset(token)

    def _admit(self, scope: Scope, headers: Headers) -> None:
        """Raise a `ProblemError` if the request must not be served; else note who sent it."""
        method, path = scope["method"], scope["path"]
        if _CONTROL.search(path):
            raise ProblemError(400, "bad-address", "the address has a control character in it")
        host = headers.get("host", "")
        # Health checks call by the address of a container or machine, and learn nothing else.
        if self._hosts and path != "/healthz" and _name(host) not in self._hosts:
            raise ProblemError(
                421,
                "wrong-host",
                f"{host[:100]!r} is no name of this service; add it with --allow-host",
            )
        origin = headers.get("origin")
        if method in _UNSAFE and (
            headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")
            or (origin is not None and urlsplit(origin).netloc.lower() != host.lower())
        ):
            raise ProblemError(403, "wrong-origin", "requests of other sites are refused")
        address = (scope.get("client") or ("unknown", 0))[0]
        client = self._client(headers, path, address)
        if client is None:
            return
        wait_s = self._limiter.wait_s(client.name if client is not _LOCAL else address)
        if wait_s:
            raise _too_many(wait_s)
        needed = needed_scope(method, path)
        if not client.may(needed):
            raise ProblemError(403, "scope-missing", f"this token lacks the scope {needed}")
        scope.setdefault("state", {})["owner"] = client.name

    def _client(self, headers: Headers, path: str, address: str) -> Client | None:
        """Return who sends a request; None for one that anybody may send."""
        if _OPEN.fullmatch(path):
            return None
        if self._local and not self._tokens.any():
            return _LOCAL
        token = _token(headers)
        if token is None:
            raise ProblemError(
                401,
                "token-missing",
                "send Authorization: Bearer TOKEN; `r2rt tokens add` makes one",
                headers={"WWW-Authenticate": "Bearer"},
            )
        found = self._tokens.client(token)
        if found is None:
            wait_s = self._limiter.wait_s(f"wrong {address}", _WRONG_TOKEN_COSTS)
            if wait_s:
                raise _too_many(wait_s)
            raise ProblemError(
                401,
                "token-wrong",
                "no such token; `r2rt tokens list` shows the names of all",
                headers={"WWW-Authenticate": 'Bearer error="invalid_token"'},
            )
        return found

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        """Return what receives the body, which must not be too long nor pause for too long."""
        upload = scope["method"] == "PATCH" and _UPLOAD.fullmatch(scope["path"])
        most = None if upload else self._settings.max_body_bytes
        received, complete = 0, False

        async def limited() -> Message:
            nonlocal received, complete
            if complete:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), self._settings.body_timeout_s)
            except TimeoutError:
                raise HTTPException(408, "the body of the request paused for too long") from None
            received += len(message.get("body", b""))
            if most is not None and received > most:
                raise HTTPException(413, f"the body is longer than {most} bytes")
            complete = not message.get("more_body", False)
            return message

        return limited


def _fault(error: Exception) -> Response:
    return problem_response(
        500, "internal", f"a fault in r2rt itself ({type(error).__name__}); see the service's log"
    )


def _route(scope: Scope) -> str:
    path: str = getattr(scope.get("route"), "path", "other")
    return path


def _token(headers: Headers) -> str | None:
    """Return the token that came with a request, as a header or, from the page, as a cookie."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":  # others are for a proxy in front
        return token.strip()
    # Not http.cookies, which drops ours beside a malformed one of another service on this host.
    return cookie_parser(headers.get("cookie", "")).get(COOKIE)


def _name(host: str) -> str:
    """Return a `Host` without its port."""
    host = host.lower()
    return host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]


def _too_many(wait_s: float) -> ProblemError:
    seconds = max(1, round(wait_s + 0.5))
    return ProblemError(
        429,
        "too-many-requests",
        f"too many requests; try again in {seconds} s",
        headers={"Retry-After": str(seconds)},
    )
