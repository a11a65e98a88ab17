"""The int8 form of an installed model runs where it is faster, and where it was asked for."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from r2rt.archive.library import Archive
from r2rt.engines import choice, measuring
from r2rt.engines.choice import Choice
from r2rt.engines.measuring import Measurement
from r2rt.engines.precision import Precision, choose_form
from r2rt.errors import HashMismatchError, ModelNotFoundError, QueryError
from r2rt.grounding.grounder import Grounder
from r2rt.model.bundle import Bundle
from r2rt.model.bundle_writer import write_manifest
from r2rt.model.installed import choose_default, int8_form
from r2rt.model.manifest import Presence, QuantizationReport
from r2rt.service.models import Models
from tests.r2rt.conftest import DEMO_BUNDLE, DEMO_VIDEO

_PRESENCE = Presence(
    statistic="score",
    false_alarm=0.05,
    quantiles=tuple(x / 20 for x in range(20)),
    tail=0.1,
    areas={"score": 0.9},
    kept=0.9,
    kept_interval=(0.8, 1.0),
    positives=20,
    negatives=20,
)


def change(folder: Path, **fields: object) -> None:
    manifest = msgspec.structs.replace(Bundle.open(folder, verify="never").manifest, **fields)
    (folder / "bundle.json").unlink()
    write_manifest(folder, manifest)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed fp32 model, and beside it what says that it is its int8 form; its folder."""
    monkeypatch.setenv("R2RT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("R2RT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("R2RT_MODEL", raising=False)
    models = tmp_path / "home" / "models"
    for name in ("mine", "mine-int8"):
        (models / name).mkdir(parents=True)
        for file in DEMO_BUNDLE.iterdir():
            (models / name / file.name).hardlink_to(file)
    report = QuantizationReport(
        origin=Bundle.open(models / "mine", verify="never").fingerprint,
        method="",
        calibration=(),
        frames=1,
        clips=1,
        queries=1,
        kept={},
        figures=(),
    )
    change(models / "mine-int8", precision="int8", quantization=report)
    return models / "mine"


def measured(
    monkeypatch: pytest.MonkeyPatch, fp32_s: float | None, int8_s: float | None
) -> list[str]:
    """Let forms take this long a frame; return the list of the forms that are measured."""
    asked: list[str] = []

    def measure(bundle: Bundle, ways: object, threads: int | None) -> list[Measurement]:
        precision = bundle.manifest.precision
        asked.append(precision)
        seconds = {"fp32": fp32_s, "int8": int8_s}[precision]
        return [Measurement(device="cpu", backend="onnxruntime", frame_s=seconds)]

    monkeypatch.setattr(measuring, "measure", measure)
    return asked


class TestAuto:
    @pytest.mark.parametrize(
        ("fp32_s", "int8_s", "chosen"),
        [
            (0.1, 0.025, "mine-int8"),
            (0.1, 0.095, "mine"),
            (0.1, 0.3, "mine"),
            (None, 0.1, "mine"),
            (0.1, None, "mine"),
        ],
    )
    def test_int8_has_to_be_worth_it(
        self,
        fp32_s: float | None,
        int8_s: float | None,
        chosen: str,
        mine: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        measured(monkeypatch, fp32_s, int8_s)
        assert choose_form(mine).name == chosen
        assert choose_form(mine, device="cpu").name == chosen

    def test_it_is_measured_and_said_once(
        self, mine: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        asked = measured(monkeypatch, 0.1, 0.025)
        for _ in range(2):
            with Grounder.load("mine", device="cpu") as grounder:
                assert grounder.bundle.path.name == "mine-int8"
        assert asked == ["fp32", "int8"]
        (said,) = (x.getMessage() for x in caplog.records if "measured once" in x.getMessage())
        assert "25.0 ms in int8 and 100.0 in fp32, so int8 is used; --precision fp32" in said
        assert choose_form(mine, threads=1).name == "mine-int8"
        assert len(asked) == 4, "another number of threads is measured, too"

    @pytest.mark.parametrize("name", ["mine", "mine-int8"])
    def test_files_that_are_not_those_of_the_manifest_do_not_run(
        self, name: str, mine: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A measurement prepares graphs, which are kept under the hash of the manifest."""
        asked = measured(monkeypatch, 0.1, 0.025)
        path = mine.with_name(name) / "video_encoder.onnx"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.unlink()
        path.write_bytes(content)
        with pytest.raises(HashMismatchError):
            Grounder.load("mine", device="cpu")
        assert not asked

    def test_a_library_belongs_to_the_form_that_made_it(
        self, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        measured(monkeypatch, 0.1, 0.025)
        with Archive.open(tmp_path / "library", model="mine", device="cpu") as archive:
            archive.add(DEMO_VIDEO)
        with Archive.open(tmp_path / "library", device="cpu") as archive:
            assert archive.search("a red circle").model == archive.grounder.bundle.manifest.name
            assert archive.grounder.bundle.path.name == "mine-int8"

    def test_a_service_has_one_form_for_questions_and_that_of_its_library(
        self, mine: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        measured(monkeypatch, 0.1, 0.025)
        models = Models("mine", "cpu", idle_s=0.0)
        with models.use() as asked, models.use("mine") as same:
            assert asked.bundle.path.name == "mine-int8"
            assert same is asked
            with models.use(exactly=str(mine)) as of_library:
                assert of_library.bundle.path == mine
        assert models.loads == 2
        models.close()

    def test_other_hardware_takes_fp32(self, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = measured(monkeypatch, 0.1, 0.025)
        assert choose_form(mine, device="cuda") == mine
        gpu = Choice(device="cuda", backend="onnxruntime", reason="")
        monkeypatch.setattr("r2rt.engines.precision.choose", lambda *_, **__: gpu)
        assert choose_form(mine, device="auto") == mine
        assert not asked

    def test_a_model_alone_is_not_measured(
        self, mine: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = measured(monkeypatch, 0.1, 0.025)
        monkeypatch.setattr(choice, "choose", None)
        assert choose_form(DEMO_BUNDLE) == DEMO_BUNDLE
        assert choose_form(mine.with_name("mine-int8")).name == "mine-int8"
        assert not asked


class TestAskedFor:
    @pytest.mark.parametrize(("precision", "name"), [("fp32", "mine"), ("int8", "mine-int8")])
    def test_it_is_taken_without_measuring(
        self, precision: Precision, name: str, mine: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = measured(monkeypatch, 0.1, 0.025)
        assert choose_form(mine, precision).name == name
        assert not asked

    def test_none_is_the_bundle_as_it_is(self, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Such as to compare with it, or to calibrate it."""
        asked = measured(monkeypatch, 0.1, 0.025)
        for folder in (mine, mine.with_name("mine-int8")):
            assert choose_form(folder, None) == folder
        assert not asked

    def test_what_is_not_there_is_an_error(self, mine: Path) -> None:
        with pytest.raises(ModelNotFoundError, match=r"is not installed in int8.*models quantize"):
            choose_form(DEMO_BUNDLE, "int8")
        with pytest.raises(ModelNotFoundError, match="mine-int8 is not installed in fp32"):
            choose_form(mine.with_name("mine-int8"), "fp32")
        with pytest.raises(QueryError, match="no precision 'int4'"):
            choose_form(mine, "int4")  # type: ignore[arg-type]


class TestTheFormOfAModel:
    def test_it_is_found_beside_the_model_which_stays_the_default(self, mine: Path) -> None:
        assert int8_form(mine) == mine.with_name("mine-int8")
        assert int8_form(mine.with_name("mine-int8")) is None
        assert choose_default().name == "mine"

    def test_one_of_another_bundle_is_not_its_form(self, mine: Path) -> None:
        change(mine, max_moments=7)
        assert int8_form(mine) is None

    def test_one_that_cannot_say_no_is_not_the_form_of_one_that_can(self, mine: Path) -> None:
        change(mine, presence=_PRESENCE)
        assert int8_form(mine) is None
