"""Connections to addresses that clients name, to public networks alone.

A name is resolved once, and the connection goes to the address that was checked: what the name
means a moment later does not matter. Redirects connect anew, and so are checked anew.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Callable, Iterable
from typing import Any

import httpcore2
import httpx2

__all__ = ["ForbiddenAddressError", "PublicTransport", "is_public"]

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
Resolve = Callable[[str, int], list[str]]


class ForbiddenAddressError(httpcore2.ConnectError):
    """A name that leads into a private network."""


class PublicTransport(httpx2.HTTPTransport):
    """Transport of `httpx2.Client` that connects to public addresses alone, without proxies.

    Args:
        resolve: returns the addresses of a name.
        private: connect to private addresses too.
        before_read: called before each read from a server; what it raises ends the request. A
            timeout alone does not: it begins anew with every byte.
    """

    def __init__(
        self,
        *,
        resolve: Resolve | None = None,
        private: bool = False,
        before_read: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(trust_env=False)
        self._pool.close()
        self._pool = httpcore2.ConnectionPool(
            ssl_context=ssl.create_default_context(),
            max_connections=4,
            network_backend=_Backend(resolve or _addresses, private, before_read),
        )


class _Backend(httpcore2.NetworkBackend):
    def __init__(self, resolve: Resolve, private: bool, before_read: Callable[[], object]) -> None:
        self._resolve, self._private, self._before_read = resolve, private, before_read
        self._sockets = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        """Connect to the first address of a name, if all of them may be connected to."""
        try:
            addresses = self._resolve(host.strip("[]"), port)
        except (OSError, UnicodeError) as error:  # the latter of what cannot be a name
            reason = getattr(error, "strerror", None) or error
            raise httpcore2.ConnectError(f"{host[:100]}: {reason}") from error
        if not addresses or not (self._private or all(map(is_public, addresses))):
            raise ForbiddenAddressError(f"{host[:100]} leads to an address that is not public")
        stream = self._sockets.connect_tcp(
            addresses[0], port, timeout, local_address, socket_options
        )
        return _Stream(stream, self._before_read)


class _Stream(httpcore2.NetworkStream):
    """A connection that calls a function before each read."""

    def __init__(self, stream: httpcore2.NetworkStream, before_read: Callable[[], object]) -> None:
        self._stream, self._before_read = stream, before_read

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self._before_read()
        return self._stream.read(max_bytes, timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, timeout)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, timeout)
        return _Stream(stream, self._before_read)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def is_public(address: str) -> bool:
    """Return whether an IP address, and any that it contains, is on the public internet."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1])
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner:
            return is_public(str(inner))
        if ip.is_site_local:
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and not ip.is_unspecified


def _addresses(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(item[4][0]) for item in found))
