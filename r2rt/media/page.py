"""Pages that need nothing but themselves: one head, one policy, escaped texts."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import Any

__all__ = ["render_page"]


def render_page(
    package: str,
    name: str,
    *,
    title: str,
    script: str = "",
    from_elsewhere: bool = False,
    **values: Any,
) -> str:
    """Return a page made of the template `NAME.html` of a package, with the style `NAME.css`.

    The template extends `page.html`. All texts are escaped, so names and queries cannot become
    markup. A browser loads nothing but the video and runs no script but the one given.

    Args:
        package: where the template and its style are.
        name: of both, without suffix.
        title: of the page.
        script: the page's script.
        from_elsewhere: whether a video of it has an http(s) address.
        values: what the template is filled with.
    """
    import jinja2

    def asset(package: str, file: str) -> str:
        return resources.files(package).joinpath(file).read_text(encoding="utf-8")

    sources = {
        "page.html": asset("r2rt.media", "page.html"),
        name: asset(package, f"{name}.html"),
    }
    environment = jinja2.Environment(
        loader=jinja2.DictLoader(sources),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    places = "'self' file:" + (" http: https:" if from_elsewhere else "")
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; media-src {places}; "
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy += f"script-src 'sha256-{digest}'; "
    return environment.get_template(name).render(
        policy=f"{policy}base-uri 'none'; form-action 'none'",
        style=asset(package, f"{name}.css"),
        title=title,
        script=script,
        **values,
    )
