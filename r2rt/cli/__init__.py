"""The command line."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line on the process's arguments and exit with a documented code."""
    import sys

    from r2rt.cli.main import run

    sys.exit(run(sys.argv[1:]))
