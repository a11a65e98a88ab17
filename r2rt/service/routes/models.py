"""Models."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter

from r2rt.service.routes.common import PROBLEMS, ServiceOf
from r2rt.service.schemas import ModelDocument

router = APIRouter(tags=["models"], responses=PROBLEMS)


@router.get("/models")
def list_models(service: ServiceOf) -> list[ModelDocument]:
    """Return the models that are installed, the default one first."""
    from r2rt.model.installed import InstalledModel, demo_model, installed, is_packaged_demo
    from r2rt.model.manifest import read_manifest

    default = Path(service.models.folder(None))
    found = {str(item.path): item for item in installed()}
    demo = demo_model()
    if demo is not None and demo.name not in {item.name for item in found.values()}:
        found[str(demo.path)] = demo
    if str(default) not in found:
        found[str(default)] = InstalledModel(
            name=default.name, path=default, manifest=read_manifest(default), problem=None
        )
    documents = []
    for item in found.values():
        manifest = item.manifest
        documents.append(
            ModelDocument(
                name=item.name,
                precision="" if manifest is None else manifest.precision,
                origin="" if manifest is None else manifest.provenance.checkpoint,
                licence=None if manifest is None else getattr(manifest, "licence", None),
                loaded=service.models.is_loaded(str(item.path)),
                is_demo=is_packaged_demo(item.path),
                is_default=item.path == default,
                problem=item.problem,
            )
        )
    return sorted(documents, key=lambda item: (not item.is_default, item.name))
