"""Fixtures and loud skips that every test folder shares."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The same examples on every run, so that a failure is the change's; no example has a deadline,
# since machines differ in speed; fixtures that tests share with their examples are meant.
settings.register_profile(
    "r2rt",
    deadline=None,
    derandomize=True,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("r2rt")

# Triton chooses between its compiler and its interpreter when it is imported, which torch may do
# long before the tests of the kernels (tests/kernels) are reached.
os.environ["TRITON_INTERPRET"] = "1"

CHECKOUT = Path(__file__).resolve().parents[1]
GOLDEN = CHECKOUT / "tests" / "golden"
# What the exporter traces is traced once for all processes that a test starts; the name of a file
# there holds a hash of the code that made it.
os.environ.setdefault("R2RT_TEMPLATES", str(CHECKOUT / "build" / "templates"))
# Material that is not part of the project: full-size goldens, real annotations, real videos.
SHARED = Path(os.environ.get("R2RT_SHARED", CHECKOUT.parent / "shared"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first: as the last ones they would leave a process without work."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """The golden files that are part of the project (tests/golden)."""
    return GOLDEN


@pytest.fixture
def shared(request: pytest.FixtureRequest) -> Path:
    """The file or folder named by `@pytest.mark.shared("golden/full/moment.pth")`, or a skip."""
    marker = request.node.get_closest_marker("shared")
    assert marker is not None, "a test that uses `shared` names it with @pytest.mark.shared(path)"
    path: Path = SHARED / marker.args[0]
    if not path.exists():
        pytest.skip(f"{path} is absent; set R2RT_SHARED to the folder that holds {marker.args[0]}")
    return path


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests, and the commands they run, away from the user's caches and defaults."""
    own = {"R2RT_CACHE": "cache", "XDG_CONFIG_HOME": "config"}
    before = {name: os.environ.get(name) for name in (*own, "R2RT_CONFIG", "R2RT_MODEL")}
    for name in ("R2RT_CONFIG", "R2RT_MODEL"):
        os.environ.pop(name, None)
    os.environ.update({name: str(tmp_path_factory.mktemp(folder)) for name, folder in own.items()})
    yield
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
