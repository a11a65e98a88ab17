from __future__ import annotations

import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.world.claims import (
    Claim,
    Kind,
    Timed,
    absent_claims,
    claims_of,
    saliency_at,
    spans_of,
)
from training.world.scenes import Actor, Motion, Phase, Pose, Scene, Thing, sample_scene
from training.world.sentences import plain_sentence, say
from training.world.sprites import Sprites
from training.world.videos import (
    Painter,
    Video,
    VideoSettings,
    is_worth_asking,
    sample_absent,
    sample_queries,
    sample_video,
    write_video,
)

SEEDS = st.integers(0, 2**32)


def thing(concept: str, colour: str | None = None) -> Thing:
    return Thing(concept=concept, style="noto", colour=colour)


def standing(concept: str, start_s: float, end_s: float, size: float = 0.5) -> Actor:
    pose = Pose(x=0.5, y=0.5, size=size)
    phase = Phase(motion=Motion.STILL, start_s=start_s, end_s=end_s, begin=pose, end=pose)
    return Actor(thing=thing(concept), phases=(phase,))


def a_video(sprites: Sprites, seed: int, duration_s: float = 90.0) -> Video:
    return sample_video(np.random.default_rng(seed), sprites, "noto", duration_s)


def near_an_end(claim: Claim, video: Video, time_s: float) -> bool:
    """Return whether a claim stops or starts being true within half a second of a time."""
    return any(
        abs(timed.start_s + bound_s - time_s) <= 0.5
        for timed in video.timed
        for span_s in claim.spans_in(timed.scene)
        for bound_s in span_s
    )


class TestScenes:
    @given(seed=SEEDS, count=st.integers(0, 3), duration_s=st.floats(2.0, 60.0))
    def test_phases_follow_one_another_inside_the_scene(
        self, seed: int, count: int, duration_s: float
    ) -> None:
        cast = [thing(name) for name in ("dog", "cat", "car")[:count]]
        scene = sample_scene(np.random.default_rng(seed), cast, duration_s)
        assert [actor.thing for actor in scene.actors] == cast
        for actor in scene.actors:
            assert 0 <= actor.start_s < actor.end_s <= duration_s + 1e-9
            for phase in actor.phases:
                assert phase.start_s < phase.end_s
            for earlier, later in zip(actor.phases, actor.phases[1:], strict=False):
                assert earlier.end_s == later.start_s
                # It is where it was; only what stops spinning is put upright.
                assert (earlier.end.x, earlier.end.y, earlier.end.size) == (
                    later.begin.x,
                    later.begin.y,
                    later.begin.size,
                )
            assert actor.pose_at(actor.end_s) is None
            pose = actor.pose_at(actor.start_s)
            assert pose is not None
            assert 0 <= pose.x <= 1
            assert 0 <= pose.y <= 1

    @given(seed=SEEDS)
    def test_a_motion_is_what_it_is_called(self, seed: int) -> None:
        scene = sample_scene(np.random.default_rng(seed), [thing("dog"), thing("cat")], 30.0)
        for actor in scene.actors:
            for phase in actor.phases:
                right = phase.end.x - phase.begin.x
                down = phase.end.y - phase.begin.y
                grown = phase.end.size / phase.begin.size
                turned = abs(phase.end.angle - phase.begin.angle)
                seen = {
                    Motion.LEFT: right < -0.5,
                    Motion.RIGHT: right > 0.5,
                    Motion.UP: down < -0.5,
                    Motion.DOWN: down > 0.5,
                    Motion.GROW: grown > 1.4,
                    Motion.SHRINK: grown < 0.7,
                    Motion.SPIN: turned > 0.2,
                    Motion.STILL: not right and not down and grown == 1 and not turned,
                }
                assert seen[phase.motion]
                assert sum(seen.values()) == 1


class TestClaims:
    scenes = (
        Timed(
            start_s=0.0,
            scene=Scene(
                duration_s=20.0,
                backdrop_seed=0,
                actors=(standing("dog", 2.0, 20.0), standing("cat", 0.0, 8.0, size=0.25)),
            ),
        ),
        Timed(
            start_s=20.0,
            scene=Scene(duration_s=10.0, backdrop_seed=1, actors=(standing("dog", 0.0, 6.0),)),
        ),
        Timed(start_s=30.0, scene=Scene(duration_s=10.0, backdrop_seed=2)),
    )

    def test_a_moment_goes_on_across_a_cut(self) -> None:
        assert spans_of(Claim(concept="dog"), self.scenes) == [(2.0, 26.0)]

    def test_a_pair_is_there_while_both_are(self) -> None:
        assert spans_of(Claim(concept="cat", other="dog"), self.scenes) == [(2.0, 8.0)]

    def test_saliency_is_that_of_the_smaller_thing(self) -> None:
        scene = self.scenes[0].scene
        assert saliency_at(Claim(concept="dog"), scene, 5.0) == 1.0
        assert saliency_at(Claim(concept="cat"), scene, 5.0) == 0.5
        assert saliency_at(Claim(concept="cat", other="dog"), scene, 5.0) == 0.5
        assert saliency_at(Claim(concept="cat"), scene, 9.0) == 0.0

    def test_what_has_no_one_colour_makes_a_claim_unclear(self) -> None:
        pose = Pose(x=0.5, y=0.5, size=0.5)
        phase = Phase(motion=Motion.STILL, start_s=0, end_s=9, begin=pose, end=pose)
        red = Actor(thing=thing("car", "red"), phases=(phase,))
        motley = Actor(thing=thing("car"), phases=(phase,))
        alone = [Timed(start_s=0.0, scene=Scene(duration_s=9, backdrop_seed=0, actors=(red,)))]
        second = Timed(start_s=9.0, scene=Scene(duration_s=9, backdrop_seed=0, actors=(motley,)))
        assert Claim(concept="car", colour="red") in claims_of(alone)
        assert Claim(concept="car", colour="red") not in claims_of([*alone, second])
        assert Claim(concept="car", colour="red") not in absent_claims([*alone, second], [])

    @settings(max_examples=20)
    @given(seed=SEEDS)
    def test_true_and_absent_claims_are_what_they_say(
        self, toy_sprites: Sprites, seed: int
    ) -> None:
        video = a_video(toy_sprites, seed)
        true = claims_of(video.timed)
        absent = absent_claims(video.timed, toy_sprites.concepts("noto"))
        assert all(spans_of(claim, video.timed) for claim in true)
        assert not any(spans_of(claim, video.timed) for claim in absent)
        assert {claim.kind for claim in absent} <= {"object", "colour", "pair", "motion"}


class TestSentences:
    @given(seed=SEEDS)
    def test_a_sentence_names_what_it_is_about(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        assert "fox" in say(rng, Claim(concept="fox"))
        coloured = say(rng, Claim(concept="fox", colour="red"))
        assert "red fox" in coloured
        both = say(rng, Claim(concept="fox", other="lion"))
        assert "fox" in both
        assert "lion" in both
        moving = say(rng, Claim(concept="fox", motion=Motion.LEFT))
        assert "left" in moving

    def test_the_words_of_sentences_are_words_of_captions(self) -> None:
        from training.world.captions import all_words

        known = set(all_words())
        rng = np.random.default_rng(0)
        for motion in (None, *(m for m in Motion if m is not Motion.STILL)):
            for _ in range(200):
                claim = Claim(concept="pumpkin", colour="red", motion=motion)
                assert set(say(rng, claim).split()) <= known
                pair = Claim(concept="ice cream", other="bus")
                assert set(say(rng, pair).split()) <= known

    def test_plain(self) -> None:
        assert plain_sentence(Claim(concept="ant")) == "an ant"
        assert plain_sentence(Claim(concept="car", colour="red")) == "a red car"
        assert plain_sentence(Claim(concept="ant", other="fox")) == "an ant next to a fox"
        moving = Claim(concept="fox", motion=Motion.RIGHT)
        assert plain_sentence(moving) == "a fox moving to the right"


class TestVideos:
    @settings(max_examples=10)
    @given(seed=SEEDS, duration_s=st.floats(30.0, 300.0))
    def test_scenes_fill_the_video_and_queries_are_true(
        self, toy_sprites: Sprites, seed: int, duration_s: float
    ) -> None:
        video = a_video(toy_sprites, seed, duration_s)
        assert video.duration_s == pytest.approx(duration_s)
        for query in sample_queries(np.random.default_rng(seed), video):
            assert is_worth_asking(query.spans_s, video.duration_s)
            assert list(query.spans_s) == spans_of(query.claim, video.timed)
            saliency = video.saliency(query.claim, 0.5)
            for clip, value in enumerate(saliency):
                middle_s = 2 * clip + 1
                timed = video.at(middle_s)
                # Spans that all but meet are one moment; what lies between them shows nothing.
                shown = any(
                    start_s <= middle_s - timed.start_s < end_s
                    for start_s, end_s in query.claim.spans_in(timed.scene)
                )
                inside = any(start_s <= middle_s < end_s for start_s, end_s in query.spans_s)
                assert (value > 0) == shown
                assert inside or not shown
                assert shown or not inside or near_an_end(query.claim, video, middle_s)
        for query in sample_absent(
            np.random.default_rng(seed), video, toy_sprites.concepts("noto")
        ):
            assert not query.spans_s
            assert not spans_of(query.claim, video.timed)

    def test_queries_are_of_the_kinds_that_are_asked_for(self, toy_sprites: Sprites) -> None:
        video, names = a_video(toy_sprites, 3, 300.0), toy_sprites.concepts("noto")
        chosen: tuple[tuple[Kind, ...], ...] = (("colour", "motion"), ("pair",))
        for kinds in chosen:
            rng = np.random.default_rng(0)
            asked = [
                *sample_queries(rng, video, kinds=kinds),
                *sample_absent(rng, video, names, kinds=kinds),
            ]
            assert {query.claim.kind for query in asked} == set(kinds)

    def test_a_seed_gives_one_video_and_frames_in_any_order(self, toy_sprites: Sprites) -> None:
        one, two = a_video(toy_sprites, 7), a_video(toy_sprites, 7)
        assert one == two
        assert one != a_video(toy_sprites, 8)
        times = [3.0, 71.5, 10.25, 44.0]
        painter, other = Painter(toy_sprites, 48), Painter(toy_sprites, 48)
        forward = {time_s: painter.frame_at(one, time_s) for time_s in times}
        for time_s in reversed(times):
            np.testing.assert_array_equal(other.frame_at(two, time_s), forward[time_s])

    def test_a_thing_is_seen_where_and_while_it_is_there(self, toy_sprites: Sprites) -> None:
        concept = toy_sprites.concepts("noto")[0]
        with_it = Scene(duration_s=10, backdrop_seed=3, actors=(standing(concept, 2.0, 8.0),))
        without = Scene(duration_s=10, backdrop_seed=3)
        painter = Painter(toy_sprites, 64)
        for time_s, there in ((1.0, False), (2.0, True), (7.9, True), (8.0, False)):
            changed = np.any(painter.draw(with_it, time_s) != painter.draw(without, time_s), axis=2)
            assert changed.any() == there
            if there:
                rows, columns = np.nonzero(changed)
                assert rows.min() >= 14
                assert columns.max() <= 50
                assert changed.sum() > 100

    def test_hours_of_video_take_little_memory(self, toy_sprites: Sprites) -> None:
        tracemalloc.start()
        video = a_video(toy_sprites, 1, 3 * 3600.0)
        painter = Painter(toy_sprites, 64)
        for time_s in np.linspace(0, 3 * 3600 - 1, 20):
            painter.frame_at(video, float(time_s))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 16 << 20
        leads = [q for q in sample_queries(np.random.default_rng(0), video) if q.spans_s]
        assert leads
        assert max(end_s for query in leads for _, end_s in query.spans_s) > 3600

    def test_lengths_on_a_grid(self, toy_sprites: Sprites) -> None:
        settings = VideoSettings(grid_s=2.0)
        rng = np.random.default_rng(0)
        video = sample_video(rng, toy_sprites, "noto", 100.0, settings)
        assert all(scene.duration_s % 2 == 0 for scene in video.scenes)

    @pytest.mark.slow
    def test_a_file_shows_the_frames(self, toy_sprites: Sprites, tmp_path: Path) -> None:
        video = a_video(toy_sprites, 2, 8.0)
        write_video(tmp_path / "video.mp4", video, toy_sprites, size=96, fps=5, crf=18)
        painter = Painter(toy_sprites, 96)
        with av.open(str(tmp_path / "video.mp4")) as container:
            frames = [
                (frame.time, frame.to_ndarray(format="rgb24"))
                for frame in container.decode(video=0)
            ]
        assert [time_s for time_s, _ in frames] == pytest.approx([n / 5 for n in range(40)])
        for time_s, pixels in frames[::7]:
            drawn = painter.frame_at(video, float(time_s)).astype(float)
            assert np.abs(pixels - drawn).mean() < 12
