"""Draw `shapes.mp4`: three shapes cross a background one after another, a scene each.

python demo/make_shapes.py demo/shapes.mp4
"""

from __future__ import annotations

import sys
from fractions import Fraction

import av
import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, RATE = 320, 240, 24
SCENE_S = 8
# Shape, colour, background, and the way across the picture (start and end of the centre, x and y).
SCENES = (
    ("ball", (214, 40, 40), (236, 226, 198), ((-40, 170), (360, 170))),
    ("square", (29, 78, 216), (190, 214, 190), ((160, -40), (160, 280))),
    ("ring", (245, 158, 11), (44, 54, 78), ((360, 60), (-40, 180))),
)


def draw(scene: int, progress: float) -> NDArray[np.uint8]:
    """Return one frame (HEIGHT, WIDTH, 3) uint8 of a scene, `progress` running from 0 to 1."""
    shape, color, background, (begin, end) = SCENES[scene]
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    center_x, center_y = (a + (b - a) * progress for a, b in zip(begin, end, strict=True))
    distance = np.hypot(x - center_x, y - center_y)
    if shape == "square":
        distance = np.maximum(np.abs(x - center_x), np.abs(y - center_y))
    elif shape == "ring":
        distance = np.abs(distance - 24) + 20
    cover = np.clip(36 - distance, 0, 1)[..., None]
    shade = (1 - 0.25 * y / HEIGHT)[..., None]
    picture = np.array(background) * shade * (1 - cover) + np.array(color) * cover
    return picture.astype(np.uint8)


def main(path: str) -> None:
    """Write the video."""
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"crf": "28", "preset": "veryslow"}
        stream.time_base = Fraction(1, RATE)
        frames = SCENE_S * RATE
        for scene in range(len(SCENES)):
            for index in range(frames):
                frame = av.VideoFrame.from_ndarray(draw(scene, index / (frames - 1)))
                container.mux(stream.encode(frame))
        container.mux(stream.encode())


if __name__ == "__main__":
    main(sys.argv[1])
