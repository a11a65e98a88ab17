"""From the trained demo model to the bundle inside the runtime package.

`python -m training.demo.ship --art DIR --clip FILE --model FILE --out DIR` exports, checks against
PyTorch, quantises, and refuses a bundle that is too large or differs too much.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from export.exporter import export_bundle
from r2rt.errors import R2rtError
from r2rt.model.bundle import Bundle
from r2rt.model.contract import TEXT_ENCODER
from r2rt.quality.calibration import calibrate, store_presence
from r2rt.quality.quantizer import BUDGETS, quantize_bundle
from training.demo.clip import load_tiny_clip
from training.demo.settings import FPS, NAME, RECIPE, TRAIN_STYLES
from training.demo.testset import sample_test_videos
from training.tiny_clip.rows import known_words
from training.world.sprites import Sprites
from training.world.videos import write_video

__all__ = ["LARGEST_BYTES", "TooLargeError", "ship"]

LARGEST_BYTES = 12_000_000
# The embeddings of words of motion are four times as long as others, so what int8 rounds off them
# is, too: at the usual budget of sentences one of 48 was off by twice what the gate allows.
_SENTENCE_BUDGET = BUDGETS[TEXT_ENCODER] / 2
# Videos that ranges of int8 are taken from and that the gate compares on, one a style.
_CALIBRATION_SEED = 3_000_000
_CALIBRATION_S = (60.0, 60.0)
# Videos a style that "not in this video" is learned from.
_PRESENCE_SEED = 5_000_000
_CALIBRATION_VIDEOS = 6
_FALSE_ALARM = 0.2
# A model that would deny more than this of what is there is not taught to say no.
_LEAST_KEPT = 0.8


class TooLargeError(R2rtError):
    """A bundle that is too large to be part of the package."""

    exit_code = 66


def ship(
    model: Path,
    clip: Path,
    sprites: Sprites,
    output: Path,
    *,
    say: Callable[[str], None] = print,
) -> Path:
    """Export, quantise and place the bundle; return its folder.

    Args:
        model: `model.pth` of `training.demo.train`.
        clip: the tiny CLIP.
        sprites: images, for videos to calibrate on.
        output: the bundle's folder; what is there is replaced, but for its README.md.
        say: called with one line for each step.

    Raises:
        TooLargeError: it takes more than 12 MB.
        R2rtError: as `export_bundle` and `quantize_bundle`.
    """
    card = output / "README.md"
    text = card.read_text() if card.is_file() else None
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        exact = export_bundle(
            model,
            work / "fp32",
            clip=load_tiny_clip(clip),
            name=NAME,
            recipe=RECIPE,
            known_words=known_words(),
            say=say,
        )
        videos = work / "videos"
        videos.mkdir()
        queries = []
        for style in TRAIN_STYLES:
            (test,) = sample_test_videos(
                style, 1, sprites, seed=_CALIBRATION_SEED, lengths_s=_CALIBRATION_S
            )
            write_video(videos / f"{style}.mp4", test.video, sprites, size=128, fps=6)
            queries += [query.text for query in (*test.queries, *test.absent)]
        say(f"{len(TRAIN_STYLES)} videos to calibrate on, {len(queries)} queries")
        order = np.random.default_rng(_CALIBRATION_SEED).permutation(len(queries))
        half = len(queries) // 2
        quantize_bundle(
            exact.path,
            output,
            calibration=[videos],
            calibration_queries=[queries[index] for index in order[:half]],
            queries=[queries[index] for index in order[half:]],
            name=NAME,
            budgets={**BUDGETS, TEXT_ENCODER: _SENTENCE_BUDGET},
            force=True,
            say=say,
        )
    if text is not None:
        card.write_text(text)
    _teach_no(output, sprites, say)
    size = sum(entry.size for entry in Bundle.open(output).manifest.files.values())
    if size > LARGEST_BYTES:
        raise TooLargeError(f"{output} takes {size} bytes, at most {LARGEST_BYTES} may be shipped")
    say(f"{output}: {size / 1e6:.2f} MB at {FPS} clips a second")
    return output


def _teach_no(bundle: Path, sprites: Sprites, say: Callable[[str], None]) -> None:
    """Calibrate "not in this video" on new videos in styles trained on; keep it if it is of use."""
    from r2rt.grounding.grounder import Grounder

    grounder = Grounder.load(bundle.resolve(), device="cpu")
    size = grounder.bundle.dims.image_size
    belong, others = [], []
    for style in TRAIN_STYLES:
        for test in sample_test_videos(style, _CALIBRATION_VIDEOS, sprites, seed=_PRESENCE_SEED):
            video = grounder.encode_frames(test.frames(sprites, size), FPS)
            texts = [query.text for query in (*test.queries, *test.absent)]
            answers = grounder.ground(video, texts)
            belong += answers[: len(test.queries)]
            others += answers[len(test.queries) :]
    presence = calibrate(belong, others, _FALSE_ALARM)
    worth = presence.kept >= _LEAST_KEPT
    store_presence(bundle, presence if worth else None)
    say(
        f"separated by {presence.statistic}: area {presence.areas[presence.statistic]:.3f}, "
        f"{100 * presence.kept:.0f} % of what is there is kept at {100 * _FALSE_ALARM:.0f} % false "
        f"alarms: {'' if worth else 'not '}stored"
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--art", type=Path, required=True, help="folder with sprites.npz")
    parser.add_argument("--clip", type=Path, required=True, help="the tiny CLIP")
    parser.add_argument("--model", type=Path, required=True, help="model.pth of the training")
    parser.add_argument("--out", type=Path, default=Path("r2rt/demo"), help="the bundle's folder")
    arguments = parser.parse_args()
    sprites = Sprites(arguments.art / "sprites.npz")
    ship(arguments.model, arguments.clip, sprites, arguments.out)


if __name__ == "__main__":
    main()
