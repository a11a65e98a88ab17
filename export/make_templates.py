"""Write the templates that `r2rt models pull` fills: `python export/make_templates.py`.

Run it where the exporter or PyTorch's has changed; a test compares what is shipped with what it
writes. The weights are random: none of them is in a template.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:
    # Run as a script: Python put the folder `export` first, where the checkout belongs.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from export._checkout import CHECKOUT
from r2rt.model.registry import CLIP_ARCHITECTURE, FAMILIES

__all__ = ["FOLDER", "family_templates", "main"]

FOLDER = CHECKOUT / "r2rt" / "model" / "convert" / "templates"


def family_templates(family: str) -> dict[str, bytes]:
    """Return the templates of a family of published models, by the graph's name."""
    import torch

    from export.templates import graph_templates
    from training.clip import ClipTowers, arch_config
    from training.model import R2Config, R2Tuning

    found = FAMILIES[family]
    config = R2Config(
        strides=found.strides,
        use_tef=found.moments,
        has_offsets=found.moments,
        merge_cls_sal=found.moments,
    )
    towers = ClipTowers(arch_config(CLIP_ARCHITECTURE))
    # Different rows: a table of equal ones would be kept by its rows.
    torch.nn.init.normal_(towers.text.token_embedding.weight)
    return graph_templates(R2Tuning(config).requires_grad_(False), towers)


def main() -> None:
    """Write the templates of every family."""
    for family in FAMILIES:
        for graph, template in family_templates(family).items():
            path = FOLDER / family / f"{graph}.onnx"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(template)
            print(f"{path.relative_to(CHECKOUT)}: {len(template) / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
