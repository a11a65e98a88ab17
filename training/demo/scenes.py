"""A pool of scenes, drawn and encoded once; training puts them together to ever new videos.

CLIP sees each frame on its own, so a scene's hidden states are the same in every video that it is
cut into: 8,000 scenes make as many videos as training can read, at the cost of 60,000 frames.

`python -m training.demo.scenes --art DIR --clip FILE --out DIR` writes `scenes.json`, `frames.npy`
(clips, S, S, 3) uint8 and `hidden.npy` (clips, K, P, Cv) fp16. It goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from r2rt.files import replacing
from training.clip import ClipTowers
from training.demo.settings import FPS, LAYERS, POOL_SEED, SCENES, TRAIN_STYLES
from training.errors import TrainingError
from training.world.photographs import Photographs
from training.world.scenes import Scene, sample_scene
from training.world.sprites import Sprites
from training.world.videos import Painter, VideoSettings, cast_thing

__all__ = [
    "Pool",
    "averaged_patches",
    "draw_pool",
    "encode_frames",
    "encode_pool",
    "is_drawn",
    "sample_pool",
]

_ENCODED_AT_ONCE = 64
_COARSE, _ENCODED = "hidden-coarse.npy", "hidden.json"


@dataclass(frozen=True, eq=False)
class Pool:
    """Scenes with their hidden states.

    Attributes:
        scenes: the scenes.
        first_clip: where each scene's clips start, and where the last one's end, (scenes + 1,).
        hidden: (clips, K, P, Cv) fp16.
    """

    scenes: list[Scene]
    first_clip: NDArray[np.int64]
    hidden: NDArray[np.float16]

    @classmethod
    def open(cls, folder: Path, towers: ClipTowers | None = None) -> Pool:
        """Open what `draw_pool` and `encode_pool` wrote; hidden states stay on disk until read.

        Args:
            folder: theirs.
            towers: the CLIP that must have encoded them; None for any.

        Raises:
            TrainingError: another CLIP encoded them.
        """
        if towers is not None and _encoded(folder).get("clip") != _identity(towers):
            raise TrainingError(
                f"{folder}: another CLIP than {towers.config.weights_source} encoded its scenes; "
                "name that one, or encode them again with training.demo.scenes"
            )
        scenes = _read_scenes(folder)
        return cls(scenes, _first_clips(scenes), np.load(folder / "hidden.npy", mmap_mode="r"))

    @classmethod
    def open_coarse(cls, folder: Path, towers: ClipTowers | None = None) -> Pool:
        """Do as `open`, with patches averaged two by two; they are kept in the folder."""
        whole, file = cls.open(folder, towers), folder / _COARSE
        if not file.is_file():
            with replacing(file) as temporary, temporary.open("wb") as stream:
                np.save(stream, averaged_patches(whole.hidden))
        return replace(whole, hidden=np.load(file, mmap_mode="r"))

    def hidden_of(self, index: int) -> NDArray[np.float16]:
        """Return a scene's hidden states, (T, K, P, Cv)."""
        return self.hidden[self.first_clip[index] : self.first_clip[index + 1]]


def averaged_patches(hidden: NDArray[np.float16]) -> NDArray[np.float16]:
    """Average patches two by two: (N, K, 1 + G·G, Cv), CLS first, to (N, K, 1 + G·G / 4, Cv)."""
    clips, layers, tokens, width = hidden.shape
    half = round((tokens - 1) ** 0.5) // 2
    parts = []
    for start in range(0, clips, _ENCODED_AT_ONCE):
        part = hidden[start : start + _ENCODED_AT_ONCE].astype(np.float32)
        patches = part[:, :, 1:].reshape(-1, layers, half, 2, half, 2, width).mean(axis=(3, 5))
        whole = (part[:, :, :1], patches.reshape(len(part), layers, -1, width))
        parts.append(np.concatenate(whole, axis=2).astype(np.float16))
    return np.concatenate(parts)


def sample_pool(
    seed: int,
    count: int,
    sprites: Sprites,
    *,
    styles: tuple[str, ...] = TRAIN_STYLES,
    settings: VideoSettings = SCENES,
) -> list[Scene]:
    """Draw scenes, each in one style, every concept as often as every other that the style has."""
    scenes = []
    shortest, longest = settings.scene_s
    grid_s = settings.grid_s or 0.0
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        style = styles[rng.integers(len(styles))]
        things = int(rng.choice(len(settings.things), p=settings.things))
        names = sprites.concepts(style)
        cast = [
            cast_thing(rng, sprites, style, names[name], settings)
            for name in rng.choice(len(names), min(things, len(names)), replace=False)
        ]
        length = float(np.exp(rng.uniform(np.log(shortest), np.log(longest))))
        length = max(1, round(length / grid_s)) * grid_s if grid_s else length
        scenes.append(sample_scene(rng, cast, length))
    return scenes


def is_drawn(folder: Path, count: int) -> bool:
    """Return whether `draw_pool` has drawn its scenes there.

    Raises:
        TrainingError: it has drawn more or fewer than `count`.
    """
    if not ((folder / "frames.npy").exists() and (folder / "scenes.json").exists()):
        return False
    drawn = len(_read_scenes(folder))
    if drawn != count:
        raise TrainingError(
            f"{folder}: {drawn} scenes are drawn there, not {count}; take --scenes {drawn}, or "
            "choose another folder"
        )
    return True


def draw_pool(
    folder: Path,
    scenes: list[Scene],
    sprites: Sprites,
    image_size: int,
    photographs: Photographs | None = None,
) -> None:
    """Write `scenes.json` and `frames.npy`; nothing is done where they are there.

    Raises:
        TrainingError: more or fewer scenes are there.
    """
    frames_file, scenes_file = folder / "frames.npy", folder / "scenes.json"
    if is_drawn(folder, len(scenes)):
        return
    folder.mkdir(parents=True, exist_ok=True)
    painter = Painter(sprites, image_size, photographs)
    shape = (int(_first_clips(scenes)[-1]), image_size, image_size, 3)
    with replacing(frames_file) as temporary:
        frames = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        for clip, (scene, time_s) in enumerate(_clips(scenes)):
            frames[clip] = painter.draw(scene, time_s)
        frames.flush()
    with replacing(scenes_file) as temporary:
        temporary.write_bytes(msgspec.json.encode(scenes))


def encode_frames(towers: ClipTowers, frames: NDArray[np.uint8]) -> NDArray[np.float16]:
    """Return hidden states (T, K, P, Cv) fp16 of frames (T, S, S, 3)."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(frames), _ENCODED_AT_ONCE):
            part = torch.from_numpy(np.array(frames[start : start + _ENCODED_AT_ONCE]))
            parts.append(towers.encode_video(part, LAYERS).half().numpy())
    return np.concatenate(parts)


def encode_pool(folder: Path, towers: ClipTowers, *, parts: int = 16) -> None:
    """Write `hidden.npy`; what an earlier, interrupted call encoded by the same CLIP is kept."""
    frames = np.load(folder / "frames.npy", mmap_mode="r")
    config = towers.config
    identity, done = _identity(towers), _encoded(folder)
    working = folder / "hidden.part.npy"
    shape = (len(frames), LAYERS, config.patches, config.vision_width)
    if done.get("clip") != identity:
        done = {}
        for name in ("hidden.npy", _COARSE):
            (folder / name).unlink(missing_ok=True)
        working.unlink(missing_ok=True)
    if (folder / "hidden.npy").exists():
        return
    # Whoever deletes the hidden states has none of their parts.
    first = int(str(done.get("parts", 0))) if working.exists() else 0
    mode = "r+" if working.exists() else "w+"
    hidden = np.lib.format.open_memmap(working, mode=mode, dtype=np.float16, shape=shape)
    bounds = np.linspace(0, len(frames), parts + 1).astype(int)
    for part in range(first, parts):
        span = slice(bounds[part], bounds[part + 1])
        hidden[span] = encode_frames(towers, frames[span])
        hidden.flush()
        with replacing(folder / _ENCODED) as temporary:
            temporary.write_bytes(msgspec.json.encode({"clip": identity, "parts": part + 1}))
    del hidden
    working.rename(folder / "hidden.npy")


def _identity(towers: ClipTowers) -> str:
    return towers.config.weights_sha256 or towers.config.weights_source


def _encoded(folder: Path) -> dict[str, object]:
    """Return which CLIP encoded how many parts of a pool; empty where none has."""
    file = folder / _ENCODED
    return msgspec.json.decode(file.read_bytes()) if file.exists() else {}


def _clips(scenes: list[Scene]) -> Iterator[tuple[Scene, float]]:
    """Yield the scene and the time of every clip's frame."""
    for scene in scenes:
        for clip in range(round(scene.duration_s * FPS)):
            yield scene, float((clip + 0.5) / FPS)


def _first_clips(scenes: list[Scene]) -> NDArray[np.int64]:
    return np.cumsum([0, *(round(scene.duration_s * FPS) for scene in scenes)])


def _read_scenes(folder: Path) -> list[Scene]:
    return msgspec.json.decode((folder / "scenes.json").read_bytes(), type=list[Scene])


def main() -> None:
    """Command line: draw the scenes, and encode them where a CLIP is named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--art", type=Path, required=True, help="folder with sprites.npz")
    parser.add_argument("--out", type=Path, required=True, help="folder of the scenes")
    parser.add_argument("--clip", type=Path, help="CLIP to encode with; without it they are drawn")
    parser.add_argument("--scenes", type=int, default=8000, help="how many")
    parser.add_argument("--seed", type=int, default=POOL_SEED, help="of the scenes")
    parser.add_argument("--photographs", type=Path, help="photographs.npz, for backgrounds")
    parser.add_argument("--share", type=float, default=0.5, help="of backgrounds from photographs")
    parser.add_argument("--image-size", type=int, default=64, help="side of a frame in pixels")
    arguments = parser.parse_args()
    began = time.perf_counter()
    try:
        drawn = is_drawn(arguments.out, arguments.scenes)
    except TrainingError as error:
        parser.error(str(error))
    if not drawn:
        sprites = Sprites(arguments.art / "sprites.npz")
        scenes = sample_pool(arguments.seed, arguments.scenes, sprites)
        photographs = (
            None
            if arguments.photographs is None
            else Photographs(arguments.photographs, "train", arguments.share)
        )
        draw_pool(arguments.out, scenes, sprites, arguments.image_size, photographs)
    frames = np.load(arguments.out / "frames.npy", mmap_mode="r")
    print(f"{len(frames)} frames, {time.perf_counter() - began:.0f} s")
    if arguments.clip is not None:
        from training.demo.clip import load_tiny_clip

        encode_pool(arguments.out, load_tiny_clip(arguments.clip))
        print(f"encoded, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
