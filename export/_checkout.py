"""The development tools run from a checkout: check that its own packages are imported."""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path

__all__ = ["CHECKOUT", "r2rt_version", "require_checkout"]

CHECKOUT = Path(__file__).resolve().parents[1]


def require_checkout(*packages: str) -> None:
    """Check that each of `packages` is a folder of this checkout before it is imported.

    Package indexes hold other packages of such common names.

    Raises:
        SystemExit: a package of that name comes from elsewhere, or from nowhere; Python prints
            its message and ends with exit code 1.
    """
    for name in packages:
        spec = importlib.util.find_spec(name)
        places = list(spec.submodule_search_locations or ()) if spec else []
        if spec and spec.origin:
            places.append(spec.origin)
        if not any(Path(place).resolve().is_relative_to(CHECKOUT) for place in places):
            found = places[0] if places else "nothing"
            raise SystemExit(
                f"Error: `import {name}` finds {found}, expected {CHECKOUT / name}; run the script "
                f"from the checkout (python {CHECKOUT / 'export' / 'to_onnx.py'}) with no other "
                f"package called {name} before it on PYTHONPATH"
            )


def r2rt_version() -> str:
    """Return the version of r2rt in this checkout, installed or not."""
    with (CHECKOUT / "pyproject.toml").open("rb") as file:
        version: str = tomllib.load(file)["project"]["version"]
    return version
