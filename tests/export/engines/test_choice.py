"""Which engines are built on which machine."""

from __future__ import annotations

from typing import Any

import pytest

from export.trt_builder import (
    TargetError,
    choose_flavour,
)
from r2rt.errors import BackendUnavailableError
from tests.export.engine_bundle import (
    modules,
)


class TestChoice:
    def test_without_a_gpu_portable_engines_by_rtx(self) -> None:
        chosen = choose_flavour(gpu=lambda: None, load=modules("tensorrt_rtx", "tensorrt"))
        assert (chosen.name, chosen.targets) == ("rtx", ("portable",))
        assert chosen.capabilities("portable") == ("8.0", "8.6", "8.9", "12.0", "12.1")
        assert "no GPU" in chosen.reason

    def test_tensorrt_builds_for_the_gpu_that_is_there(self) -> None:
        chosen = choose_flavour(gpu=lambda: "9.0", load=modules("tensorrt"))
        assert (chosen.name, chosen.targets) == ("tensorrt", ("9.0",))

    def test_a_gpu_without_tensorrt_gets_its_rtx_engine(self) -> None:
        chosen = choose_flavour(gpu=lambda: "8.9", load=modules("tensorrt_rtx"))
        assert (chosen.name, chosen.targets) == ("rtx", ("8.9",))
        assert "tensorrt is not installed" in chosen.reason

    def test_targets_beside_the_gpu_s_go_to_rtx(self) -> None:
        chosen = choose_flavour(
            "auto", ["8.6", "8.9", "8.6"], gpu=lambda: "8.9", load=modules("tensorrt_rtx")
        )
        assert (chosen.name, chosen.targets) == ("rtx", ("8.6", "8.9"))

    @pytest.mark.parametrize("target", ["9.0", "10.0", "6.1"])
    @pytest.mark.parametrize("name", ["auto", "rtx"])
    def test_hopper_and_blackwell_are_not_rtx_s(self, name: Any, target: str) -> None:
        with pytest.raises(TargetError, match=r"TensorRT-RTX serves 7\.5, 8\.0.*TensorRT proper"):
            choose_flavour(name, [target], gpu=lambda: None, load=modules("tensorrt_rtx"))

    def test_tensorrt_without_a_gpu_or_for_another_cannot_be_had(self) -> None:
        load = modules("tensorrt")
        with pytest.raises(BackendUnavailableError, match="this machine has none"):
            choose_flavour("tensorrt", gpu=lambda: None, load=load)
        with pytest.raises(TargetError, match=r"this machine's GPU \(9\.0\) alone, not for 10\.0"):
            choose_flavour("tensorrt", ["10.0"], gpu=lambda: "9.0", load=load)

    def test_a_missing_package_is_named(self) -> None:
        with pytest.raises(BackendUnavailableError, match=r"pip install 'r2rt\[rtx\]'"):
            choose_flavour("rtx", gpu=lambda: None, load=modules())

    def test_nonsense_is_no_target(self) -> None:
        with pytest.raises(TargetError, match="no target 'sm_89'"):
            choose_flavour("rtx", ["sm_89"], gpu=lambda: None, load=modules("tensorrt_rtx"))
