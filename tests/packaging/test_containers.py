"""The recipes of the images; `test_wheel.py` runs their steps."""

from __future__ import annotations

import re

import pytest

from tests.conftest import CHECKOUT

CONTAINERS = CHECKOUT / "containers"
NOBODY = 65534


@pytest.mark.parametrize("name", ["cpu.Dockerfile", "cuda.Dockerfile"])
def test_an_image_is_built_in_stages_and_runs_without_privileges(name: str) -> None:
    lines = (CONTAINERS / name).read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    stages = [line for line in lines if line.startswith("FROM ")]
    assert len(stages) == 2
    final = lines[lines.index(stages[-1]) :]
    assert not [line for line in final if re.search(r"\bpip\b|COPY (?!--from)", line)]
    assert f"USER {NOBODY}:{NOBODY}" in final
    assert not any(line.startswith("HEALTHCHECK") for line in lines)  # most commands end
    assert 'ENTRYPOINT ["r2rt"]' in final
    for line in lines:
        if line.startswith("COPY ") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert (CHECKOUT / source).exists(), line


def test_the_build_context_has_what_is_copied_and_nothing_else() -> None:
    rules = (CHECKOUT / ".dockerignore").read_text(encoding="utf-8").split()
    assert rules[0] == "*"
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {
        source.strip("./")
        for line in (CONTAINERS / "cpu.Dockerfile").read_text(encoding="utf-8").splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    }
    assert {name.removeprefix("./") for name in copied} == {name.strip("./") for name in allowed}
