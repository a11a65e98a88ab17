from __future__ import annotations

from dataclasses import replace

import numpy as np

from training.demo.probe import known_table, probe
from training.demo.scenes import Pool, sample_pool
from training.world.colours import COLOURS
from training.world.concepts import INDEX
from training.world.scenes import Motion
from training.world.sprites import Sprites


def test_a_probe_finds_what_a_layer_holds_and_nothing_else(toy_sprites: Sprites) -> None:
    scenes = sample_pool(2, 150, toy_sprites)
    clips = np.cumsum([0, *(round(scene.duration_s / 2) for scene in scenes)])
    rng = np.random.default_rng(0)
    # Layers of noise; the facts to be found are written into them below.
    hidden = rng.standard_normal((clips[-1], 4, 5, 16)).astype(np.float16)
    concepts = sorted({actor.thing.concept for scene in scenes for actor in scene.actors})
    colours, motions = list(COLOURS), list(Motion)
    for index, scene in enumerate(scenes):
        for clip in range(clips[index], clips[index + 1]):
            time_s = 2.0 * (clip - clips[index]) + 1.0
            for actor in scene.actors:
                pose, phase = actor.pose_at(time_s), actor.phase_at(time_s)
                if pose is None or phase is None:
                    continue
                hidden[clip, 3, 0] = 5 * (np.arange(16) == concepts.index(actor.thing.concept))
                hidden[clip, 1, 0, :3] = 10 * pose.x, 10 * pose.y, 10 * pose.size
                hidden[clip, 0, 0, :8] = np.arange(8) == motions.index(phase.motion)
                if actor.thing.colour is not None:
                    hidden[clip, 2, 0] = np.arange(16) == colours.index(actor.thing.colour)
    assert set(concepts) <= set(INDEX)
    found = probe(Pool(scenes, clips, hidden))
    assert list(found) == ["none", *(f"{layer} from the end" for layer in (1, 2, 3, 4)), "all"]
    none, last, colour, place, motion, everything = found.values()
    assert max(none.x, none.y, none.size) <= 0
    assert none.concept < 40
    assert last.concept == 100.0
    assert colour.colour > 80
    assert min(place.x, place.y, place.size) > 95
    assert motion.motion > 95
    # Noise names one of eight concepts by chance and explains nothing; most things stand still.
    assert colour.concept < 40
    assert max(last.x, last.y, last.size) < 10
    assert everything.concept > 95
    assert min(everything.x, everything.y, everything.size) > 90
    table = known_table({"last": replace(last, x=12.34)}).splitlines()
    assert "| 12.3 |" in table[2]
