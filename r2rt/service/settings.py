"""How a service is set up."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from r2rt.user_folders import user_data

if TYPE_CHECKING:
    from r2rt.engines import Device, Precision

__all__ = ["Settings", "default_folder", "is_loopback"]

_DAY_S = 86400.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a service is set up; times in seconds.

    Attributes:
        folder: where the service keeps its database, uploads and results.
        roots: folders whose videos may be added by path; none by default.
        library: folder or address of a library to search; None for none.
        model: name or folder of the model that answers; None takes the default one.
        device: what it runs on.
        precision: which form of it.
        host: address to listen at.
        port: port to listen at; 0 takes a free one.
        allowed_hosts: further names that a request's `Host` may have.
        workers: jobs that run at the same time.
        encoders: videos that are encoded at the same time; on Ray, processes that encode.
        answerers: processes that answer, on Ray.
        model_idle_s: a model that was not used for so long is unloaded.
        batch_wait_s: how long a first query waits for others to be answered with.
        batch_most: queries answered in one call at most; 1 answers each alone.
        rate: requests a second of one client, on average; 0 for no limit.
        burst: requests of one client at once.
        max_body_bytes: size of a request's body at most, uploads excepted.
        header_timeout_s: how long the headers of a request may take.
        body_timeout_s: how long a request's body may pause.
        max_upload_bytes: size of an uploaded or fetched video at most.
        upload_expiry_s: how long an unfinished upload is kept.
        min_upload_rate: bytes a second of an upload at least, on average.
        fetch_timeout_s: how long fetching a video from an address may take.
        results_expiry_s: how long finished jobs, their files, and ended watches are kept.
        max_attempts: how often a job that ends with the process is begun.
        max_waiting: jobs that may wait at most.
        max_watches: live sources watched at the same time.
        lock_wait_s: how long to wait for a service that still uses the folder.
        private_addresses: whether videos are fetched from private networks, and webhooks go there.
    """

    folder: Path
    roots: tuple[Path, ...] = ()
    library: str | None = None
    model: str | None = None
    device: Device = "auto"
    precision: Precision = "auto"
    host: str = "127.0.0.1"
    port: int = 8080
    allowed_hosts: tuple[str, ...] = ()
    workers: int = 2
    encoders: int = 1
    answerers: int = 1
    model_idle_s: float = 300.0
    batch_wait_s: float = 0.003
    batch_most: int = 64
    rate: float = 100.0
    burst: int = 400
    max_body_bytes: int = 1 << 20
    header_timeout_s: float = 15.0
    body_timeout_s: float = 30.0
    max_upload_bytes: int = 20 << 30
    upload_expiry_s: float = _DAY_S
    min_upload_rate: float = 1024.0
    fetch_timeout_s: float = 3600.0
    results_expiry_s: float = 7 * _DAY_S
    max_attempts: int = 3
    max_waiting: int = 10_000
    max_watches: int = 8
    lock_wait_s: float = 0.0
    private_addresses: bool = False


def default_folder() -> Path:
    """Return `service` in `$R2RT_HOME` or in the user's data."""
    return user_data() / "service"


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address to listen at."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
