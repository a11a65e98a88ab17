"""One grounder, many threads: every answer is the one that a single thread gives."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import r2rt
from r2rt import EncodedVideo, Grounder, Prediction
from r2rt.engines.base import Array, PipelinedEngine, Placed
from r2rt.engines.exclusive import for_threads
from r2rt.engines.onnx_runtime import OnnxRuntimeEngine
from r2rt.engines.providers import PROVIDERS
from r2rt.errors import QueryError
from r2rt.model.bundle import Bundle
from tests.conftest import CHECKOUT
from tests.r2rt.fakes import FakeEngine, fake_grounder, frames_with_red

FOLDER = Path(r2rt.__file__).parent / "demo"
THREADS = 8
WORDS = ("a penguin", "a panda", "a red strawberry", "a guitar next to a pumpkin", "an owl")

Question = tuple[EncodedVideo, str]


@pytest.fixture(scope="module")
def demo() -> Iterator[Grounder]:
    with Grounder.load(FOLDER, device="cpu") as grounder:
        yield grounder


@pytest.fixture(scope="module")
def videos(demo: Grounder) -> list[EncodedVideo]:
    """The demo video, and parts of it of other lengths."""
    whole = demo.encode(CHECKOUT / "demo" / "emoji.mp4")
    count = whole.num_clips
    return [whole, whole.part(0, count // 2), whole.part(count // 2, count), whole.part(3, 9)]


def same(got: Prediction, want: Prediction) -> bool:
    return (
        got.query == want.query
        and got.moments == want.moments
        and np.array_equal(got.saliency, want.saliency)
        and np.array_equal(got.boundaries, want.boundaries)
        and bool(np.isfinite(got.saliency).all())
    )


def differing(
    grounder: Grounder, questions: Sequence[Question], seed: int
) -> tuple[int, dict[str, float]]:
    """Return how many answers of 8 threads differ from one thread's, and the seconds of each."""
    once = list(dict.fromkeys((id(video), query) for video, query in questions))
    by_id = {id(video): video for video, _ in questions}
    grounder.warm_up()
    began = time.perf_counter()
    want = {key: grounder.ground(by_id[key[0]], key[1]) for key in once}
    order = np.random.default_rng(seed).permutation(len(questions))
    one_s = (time.perf_counter() - began) / len(once) * len(questions)
    began = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        wrong = pool.map(
            lambda index: (
                not same(
                    grounder.ground(*questions[index]),
                    want[id(questions[index][0]), questions[index][1]],
                )
            ),
            order.tolist(),
        )
        count = sum(wrong)
    return count, {"one thread": one_s, "8 threads": time.perf_counter() - began}


def test_threads_get_the_answers_of_one_thread(demo: Grounder, videos: list[EncodedVideo]) -> None:
    questions = [(video, word) for video in videos for word in WORDS] * 8
    assert differing(demo, questions, seed=0)[0] == 0


@pytest.mark.slow
def test_ten_thousand_questions_in_eight_threads(
    videos: list[EncodedVideo], capsys: pytest.CaptureFixture[str]
) -> None:
    # Short parts and engines of one thread: most of the time, threads meet outside of the graphs.
    parts = [videos[0].part(first, end) for first, end in ((0, 4), (3, 9), (5, 7), (1, 9))]
    questions = [(part, word) for part in parts for word in WORDS] * 500
    assert len(questions) == 10_000
    with Grounder.load(FOLDER, device="cpu", threads=1) as grounder:
        count, seconds = differing(grounder, questions, seed=1)
    with capsys.disabled():
        print(f"\n10,000 questions, {count} differ; {seconds}")
    assert count == 0


def test_threads_that_encode_get_the_tokens_of_one_thread(tmp_path: Path) -> None:
    with Grounder.load(FOLDER, device="cpu") as grounder:
        rng = np.random.default_rng(0)
        arrays = [
            rng.integers(0, 256, (length, 40, 48, 3), dtype=np.uint8) for length in (3, 9, 20)
        ]
        want = [grounder.encode_frames(array, grounder.bundle.fps).tokens for array in arrays]
        with ThreadPoolExecutor(THREADS) as pool:
            got = list(
                pool.map(
                    lambda array: grounder.encode_frames(array, grounder.bundle.fps).tokens,
                    arrays * 8,
                )
            )
    for index, tokens in enumerate(got):
        np.testing.assert_array_equal(tokens, want[index % 3])


class OneAtATime(FakeEngine):
    """A pipelined engine that fails if two threads are in it at once."""

    concurrent = False

    def __init__(self) -> None:
        super().__init__()
        self._busy = threading.Lock()
        self._pending: list[tuple[NDArray[np.uint8], Mapping[str, NDArray[np.float32]]]] = []
        self.closed = 0

    def _alone(self, call: Callable[[], dict[str, Array]]) -> dict[str, Array]:
        assert self._busy.acquire(blocking=False), "two threads are in the engine"
        try:
            time.sleep(0.001)  # time for another thread to enter
            return call()
        finally:
            self._busy.release()

    def run(
        self,
        graph: str,
        inputs: Mapping[str, Placed],
        outputs: Mapping[str, Placed] | None = None,
    ) -> dict[str, Array]:
        def call() -> dict[str, Array]:
            return super(OneAtATime, self).run(graph, inputs, outputs)

        return self._alone(call)

    def submit(self, frames: NDArray[np.uint8], outputs: Mapping[str, NDArray[np.float32]]) -> None:
        self._pending.append((frames.copy(), outputs))

    def finish(self) -> None:
        while self._pending:
            frames, outputs = self._pending.pop(0)
            self.run("video_encoder", {"frames": frames}, outputs)

    def close(self) -> None:
        self.closed += 1


def test_an_engine_of_one_thread_is_entered_by_one_at_a_time(
    tmp_path: Path, tokenizer_file: Path
) -> None:
    engine = OneAtATime()
    grounder = fake_grounder(tmp_path, tokenizer_file, engine)
    assert isinstance(grounder.engine, PipelinedEngine)
    arrays = [frames_with_red(list(range(start, start + 7))) for start in (0, 50, 100)]
    want = [grounder.ground(grounder.encode_frames(a, 0.5), "a dog") for a in arrays]

    def ask(index: int) -> bool:
        video = grounder.encode_frames(arrays[index], 0.5)
        return same(grounder.ground(video, "a dog"), want[index])

    with ThreadPoolExecutor(THREADS) as pool:
        assert all(pool.map(ask, [0, 1, 2] * 4))


def test_a_concurrent_engine_has_no_lock_around_it() -> None:
    engine = FakeEngine()
    assert for_threads(engine) is engine


def test_sessions_of_directml_take_turns() -> None:
    """ONNX Runtime forbids two runs of one of them at the same time."""
    bundle = Bundle.open(FOLDER)
    engines = {device: OnnxRuntimeEngine(bundle, device=device, threads=1) for device in PROVIDERS}
    locked = [device for device, engine in engines.items() if for_threads(engine) is not engine]
    assert locked == ["directml"]


def test_a_closed_grounder_refuses_and_frees_its_engine_once(
    tmp_path: Path, tokenizer_file: Path
) -> None:
    engine = OneAtATime()
    with fake_grounder(tmp_path, tokenizer_file, engine) as grounder:
        video = grounder.encode_frames(frames_with_red([1, 2, 3]), 0.5)
        grounder.ground(video, "a dog")
    grounder.close()
    assert engine.closed == 1
    with pytest.raises(QueryError, match="closed"):
        grounder.ground(video, "a dog")
    with pytest.raises(QueryError, match="closed"):
        grounder.encode_frames(frames_with_red([1]), 0.5)
    with pytest.raises(QueryError, match="closed"):
        grounder.engine.run("video_encoder", {})
