"""Tokens: who may ask for what."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from dataclasses import dataclass
from typing import Literal, get_args

from r2rt.errors import QueryError
from r2rt.service.database import Database

__all__ = ["SCOPES", "Client", "Scope", "Token", "Tokens", "needed_scope"]

Scope = Literal["read", "write", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))
# Questions that have a body; what a tool does through /mcp is admitted as a request of its own.
_QUESTIONS = re.compile(r"/api/v1/(videos/[^/]+/ground|export|search|session)|/mcp(/.*)?")
# What makes the service connect to addresses for as long as it runs.
_ADMIN = "/api/v1/watches"


@dataclass(frozen=True)
class Client:
    """Who sends a request, and what it may do; each scope includes those before it."""

    name: str
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        """Return whether a request of this scope is allowed."""
        return any(SCOPES.index(held) >= SCOPES.index(scope) for held in self.scopes)


@dataclass(frozen=True, kw_only=True)
class Token:
    """What is kept of a token, which is not the token itself."""

    name: str
    scopes: tuple[Scope, ...]
    created_at: float


class Tokens:
    """The table of tokens.

    They are random, of 256 bits, so that one round of a fast hash protects the stored hashes.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, name: str, scopes: tuple[Scope, ...]) -> str:
        """Make a token and return it; it cannot be shown again.

        Raises:
            QueryError: the name is taken or cannot be one.
        """
        if not _NAME.fullmatch(name):
            raise QueryError(
                f"{name[:70]!r}: expected letters, digits, `_`, `.` and `-`, at most 64"
            )
        if self._database.row("SELECT 1 FROM tokens WHERE name = ?", (name,)) is not None:
            raise QueryError(f"there is a token {name} already; choose another name or remove it")
        token = f"r2rt_{secrets.token_urlsafe(32)}"
        self._database.write(
            "INSERT INTO tokens (name, sha256, scopes, created_at) VALUES (?, ?, ?, ?)",
            (name, _hash(token), " ".join(scopes), time.time()),
        )
        return token

    def all(self) -> list[Token]:
        """Return all tokens by name."""
        rows = self._database.rows("SELECT * FROM tokens ORDER BY name")
        return [
            Token(name=row["name"], scopes=_scopes(row["scopes"]), created_at=row["created_at"])
            for row in rows
        ]

    def remove(self, name: str) -> None:
        """Remove a token; it is refused from now on.

        Raises:
            QueryError: there is none of that name.
        """
        if not self._database.write("DELETE FROM tokens WHERE name = ?", (name,)):
            raise QueryError(f"there is no token {name}; `r2rt tokens list` shows all")

    def any(self) -> bool:
        """Return whether there is a token."""
        return self._database.row("SELECT 1 FROM tokens LIMIT 1") is not None

    def client(self, token: str) -> Client | None:
        """Return whose token this is; None if it is nobody's."""
        presented = _hash(token)
        found: Client | None = None
        for row in self._database.rows("SELECT * FROM tokens"):  # all, so that times say nothing
            if hmac.compare_digest(presented, row["sha256"]):
                found = Client(row["name"], frozenset(_scopes(row["scopes"])))
        return found


def needed_scope(method: str, path: str) -> Scope:
    """Return what a request must be allowed."""
    if path.startswith(_ADMIN) and method not in _SAFE_METHODS:
        return "admin"
    if method in _SAFE_METHODS or _QUESTIONS.fullmatch(path):
        return "read"
    return "write"


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()


def _scopes(text: str) -> tuple[Scope, ...]:
    return tuple(scope for scope in SCOPES if scope in text.split())
