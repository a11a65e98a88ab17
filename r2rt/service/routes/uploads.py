"""Uploads by the tus protocol 1.0, which resume after a lost connection."""

from __future__ import annotations

import asyncio
import os
import time
from email.utils import formatdate
from typing import IO, Annotated

from fastapi import APIRouter, Header, Path, Request, Response
from starlette.requests import ClientDisconnect

from r2rt.service.problems import ProblemError
from r2rt.service.routes.common import PROBLEMS, Owner, ServiceOf
from r2rt.service.service import Service
from r2rt.service.uploads import Upload

router = APIRouter(prefix="/uploads", tags=["uploads"], responses=PROBLEMS)

UploadId = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$")]
Version = Annotated[str, Header(description="The version of tus: 1.0.0.")]
_TUS = {"Tus-Resumable": "1.0.0", "Cache-Control": "no-store"}
_PATCH_TYPE = "application/offset+octet-stream"
_WRITE_BYTES = 1 << 20
# An upload may be slow for so long before its rate counts.
_GRACE_S = 30.0


@router.options("", status_code=204)
def upload_options(service: ServiceOf, response: Response) -> None:
    """Return what of tus is spoken here."""
    response.headers.update(
        _TUS
        | {
            "Tus-Version": "1.0.0",
            "Tus-Extension": "creation,expiration,termination",
            "Tus-Max-Size": str(service.settings.max_upload_bytes),
        }
    )


@router.post("", status_code=201)
def begin_upload(
    service: ServiceOf,
    owner: Owner,
    response: Response,
    upload_length: Annotated[int, Header(ge=1)],
    tus_resumable: Version,
    upload_metadata: Annotated[str, Header(max_length=4096)] = "",
) -> None:
    """Begin an upload of `Upload-Length` bytes; `Location` is where to PATCH them."""
    _check_version(tus_resumable)
    upload = service.uploads.begin(owner, upload_length, upload_metadata)
    response.headers.update(_TUS)
    response.headers["Location"] = f"/api/v1/uploads/{upload.id}"
    response.headers["Upload-Expires"] = _expires(service, upload)


@router.head("/{upload_id}")
def upload_status(
    upload_id: UploadId, service: ServiceOf, owner: Owner, tus_resumable: Version
) -> Response:
    """Return how many bytes have come, as `Upload-Offset`; of all, `R2rt-Video` too."""
    _check_version(tus_resumable)
    upload = service.uploads.get(upload_id, owner)
    if upload.offset == upload.length and upload.video is None:
        # The process ended before it was made a video of; clients send nothing more.
        with service.uploads.receiving(upload_id):
            upload = _finished(service, service.uploads.get(upload_id, owner))
    return _state(service, upload, 200)


@router.patch(
    "/{upload_id}",
    status_code=204,
    openapi_extra={"requestBody": {"content": {_PATCH_TYPE: {"schema": {"type": "string"}}}}},
)
async def send_upload(
    upload_id: UploadId,
    request: Request,
    service: ServiceOf,
    owner: Owner,
    upload_offset: Annotated[int, Header(ge=0)],
    tus_resumable: Version,
) -> Response:
    """Send bytes from `Upload-Offset` on; with the last ones `R2rt-Video` names the video."""
    _check_version(tus_resumable)
    if request.headers.get("content-type") != _PATCH_TYPE:
        raise ProblemError(415, "wrong-type", f"expected Content-Type: {_PATCH_TYPE}")
    with service.uploads.receiving(upload_id) as path:
        upload = service.uploads.get(upload_id, owner)
        if upload_offset != upload.offset:
            raise ProblemError(
                409,
                "wrong-offset",
                f"{upload.offset} bytes have come, not {upload_offset}; go on from there",
            )
        if upload.offset < upload.length:
            with path.open("ab") as file:
                await _receive(request, service, upload, file)
            upload = service.uploads.get(upload_id, owner)
        if upload.offset == upload.length:
            upload = await asyncio.to_thread(_finished, service, upload)
    return _state(service, upload, 204)


@router.delete("/{upload_id}", status_code=204)
def end_upload(
    upload_id: UploadId,
    service: ServiceOf,
    owner: Owner,
    response: Response,
    tus_resumable: Version,
) -> None:
    """Give an upload up."""
    _check_version(tus_resumable)
    service.uploads.remove(upload_id, owner)
    response.headers.update(_TUS)


def _finished(service: Service, upload: Upload) -> Upload:
    """Return an upload that is whole once a video was made of it, which is encoded soon."""
    if upload.video is None:
        video = service.uploads.finish(upload)
        service.encode_soon(video, owner=upload.owner)
        upload = service.uploads.get(upload.id, upload.owner)
    return upload


async def _receive(request: Request, service: Service, upload: Upload, file: IO[bytes]) -> None:
    """Append what comes; what came before the connection was lost stays."""
    began, received, waiting = time.monotonic(), 0, bytearray()
    rest = upload.length - upload.offset
    try:
        async for chunk in request.stream():
            received += len(chunk)
            if received > rest:
                raise ProblemError(
                    413, "too-large", f"more than the {upload.length} bytes announced"
                )
            waiting += chunk
            if len(waiting) >= _WRITE_BYTES:
                content = bytes(waiting)
                waiting.clear()
                await asyncio.to_thread(_append, file, content)
            took_s = time.monotonic() - began
            if took_s > _GRACE_S and received < service.settings.min_upload_rate * took_s:
                raise ProblemError(
                    408, "too-slow", "the upload is too slow; go on with another request"
                )
    except ClientDisconnect:
        pass
    finally:
        await asyncio.to_thread(_append, file, bytes(waiting), sync=True)


def _append(file: IO[bytes], content: bytes, *, sync: bool = False) -> None:
    try:
        file.write(content)
        file.flush()
        if sync:
            os.fsync(file.fileno())
    except OSError as error:
        raise ProblemError(
            507, "disk-full", f"it cannot be written ({error.strerror}); go on when there is room"
        ) from error


def _state(service: Service, upload: Upload, status: int) -> Response:
    headers = _TUS | {
        "Upload-Offset": str(upload.offset),
        "Upload-Length": str(upload.length),
        "Upload-Expires": _expires(service, upload),
    }
    if upload.video is not None:
        headers["R2rt-Video"] = upload.video
    return Response(status_code=status, headers=headers)


def _expires(service: Service, upload: Upload) -> str:
    return formatdate(upload.created_at + service.settings.upload_expiry_s, usegmt=True)


def _check_version(version: str) -> None:
    if version != "1.0.0":
        raise ProblemError(
            412,
            "wrong-tus-version",
            f"Tus-Resumable {version[:20]!r}; expected 1.0.0",
            headers={"Tus-Version": "1.0.0"},
        )
