"""The built wheel, and an environment that the images' installer made of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT

NOBODY = 65534


@dataclass(frozen=True)
class Installation:
    """The wheel, installed without HOME, by another user where the tests run as root."""

    folder: Path

    @property
    def bin(self) -> Path:
        return self.folder / "opt" / "r2rt" / "bin"

    def run(self, *command: str | Path) -> str:
        """Run a command as that user, check that it succeeds, and return its stdout."""
        kept = {
            name: os.environ[name] for name in os.environ if re.match(r"(?i)pip_|.*_proxy", name)
        }
        environment = kept | {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "R2RT_HOME": str(self.folder / "data"),
            "R2RT_CACHE": str(self.folder / "data" / "cache"),
        }
        root = os.getuid() == 0
        result = subprocess.run(
            list(map(str, command)),
            user=NOBODY if root else None,
            group=NOBODY if root else None,
            extra_groups=[] if root else None,
            env=environment,
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout


def demo_question() -> tuple[str, Callable[[str], None]]:
    """Return a query about `demo/emoji.mp4` and a check of the JSON that `r2rt ground` answers."""
    truth = json.loads((CHECKOUT / "demo" / "emoji.json").read_text())["queries"][0]

    def assert_right(answer: str) -> None:
        best = json.loads(answer)["results"][0]["moments"][0]
        assert any(
            min(best["end_s"], end_s) - max(best["start_s"], start_s)
            > 0.5 * (max(best["end_s"], end_s) - min(best["start_s"], start_s))
            for start_s, end_s in truth["true_s"]
        )

    return truth["query"], assert_right


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir"]
    subprocess.run([*command, str(folder), str(CHECKOUT)], check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def installation(wheel: Path) -> Iterator[Installation]:
    # Not below pytest's own folder, which is closed to other users.
    with tempfile.TemporaryDirectory(prefix="r2rt-packaging-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copytree(CHECKOUT / "containers", folder / "containers")
        shutil.copyfile(wheel, folder / wheel.name)
        shutil.copyfile(CHECKOUT / "constraints.txt", folder / "constraints.txt")
        shutil.copyfile(CHECKOUT / "demo" / "emoji.mp4", folder / "emoji.mp4")
        for part in ("opt", "data"):
            (folder / part).mkdir()
            if os.getuid() == 0:
                os.chown(folder / part, NOBODY, NOBODY)
        done = Installation(folder)
        python = Path(sys.executable).resolve().parent  # the tests' version, for the installer
        done.run(
            "env",
            f"PATH={python}:/usr/bin:/bin",
            folder / "containers" / "install.sh",
            folder / wheel.name,
            folder / "opt" / "r2rt",
            "cpu",
        )
        yield done
