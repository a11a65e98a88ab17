from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.world.toy_art import TOY_CONCEPTS
from training.world.backgrounds import background
from training.world.colours import COLOURS, colour_of, paint
from training.world.compose import (
    AMBIGUOUS,
    NOTHING,
    FrameSettings,
    _bent,
    _repainted,
    compose_frame,
    look,
    paste,
)
from training.world.sprites import Sprites, _parts_by_colour


def plain_disc(size: int = 96) -> np.ndarray:
    image = np.zeros((size, size, 4), np.uint8)
    cv2.circle(image, (size // 2, size // 2), size // 2 - 2, (200, 40, 40, 255), -1)
    return image


@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([40, 64, 112]))
@settings(max_examples=40)
def test_a_seed_gives_one_frame(toy_sprites: Sprites, seed: int, size: int) -> None:
    chosen = FrameSettings(size=size)
    first, second = (
        compose_frame(np.random.default_rng(seed), toy_sprites, "noto", chosen) for _ in range(2)
    )
    np.testing.assert_array_equal(first.pixels, second.pixels)
    np.testing.assert_array_equal(first.patch_labels, second.patch_labels)
    assert first.objects == second.objects
    assert first.pixels.shape == (size, size, 3)
    assert first.pixels.dtype == np.uint8
    assert first.patch_labels.shape == (size // 8, size // 8)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_what_is_said_of_a_frame_holds(toy_sprites: Sprites, seed: int) -> None:
    chosen = FrameSettings(objects=(0.3, 0.4, 0.3))
    frame = compose_frame(np.random.default_rng(seed), toy_sprites, "fluent-3d", chosen)
    names = [thing.concept for thing in frame.objects]
    assert 1 <= len(names) == len(set(names)) <= 3
    assert set(names) <= set(TOY_CONCEPTS)
    labels = frame.patch_labels
    assert set(np.unique(labels)) <= {AMBIGUOUS, NOTHING, *range(len(names))}
    for place, thing in enumerate(frame.objects):
        assert 0 <= thing.visible <= 1
        left, top, right, bottom = thing.box
        rows, columns = np.nonzero(labels == place)
        # A patch that shows an object touches the object's square.
        reach = 0.25 * (right - left)  # rotation moves corners out of the square
        assert (columns * 8 + 8 >= left - reach).all()
        assert (columns * 8 <= right + reach).all()
        assert (rows * 8 + 8 >= top - reach).all()
        assert (rows * 8 <= bottom + reach).all()


@pytest.mark.parametrize("seed", range(8))
def test_patch_labels_agree_with_the_pixels(toy_sprites: Sprites, seed: int) -> None:
    """With a background of one colour, what differs from it is where the object is."""
    chosen = FrameSettings(objects=(1.0,), augment=False, recolour=0.0, clutter=0.0, angle=0.0)
    rng = np.random.default_rng(seed)
    frame = compose_frame(rng, toy_sprites, "twemoji", chosen, concepts=("dog",))
    empty = background(np.random.default_rng(seed), 64, clutter=0.0)
    changed = (frame.pixels != empty).any(axis=2).reshape(8, 8, 8, 8).mean(axis=(1, 3))
    assert (changed[frame.patch_labels == 0] > 0.3).all()
    assert (changed[frame.patch_labels == NOTHING] < 0.3).all()
    assert (frame.patch_labels == 0).any()


def test_asked_concepts_are_shown(toy_sprites: Sprites) -> None:
    frame = compose_frame(
        np.random.default_rng(3), toy_sprites, "noto", FrameSettings(), concepts=("fox", "bus")
    )
    assert [thing.concept for thing in frame.objects] == ["fox", "bus"]


class TestPaste:
    def test_an_image_lies_where_it_is_put(self) -> None:
        canvas = np.full((60, 80, 3), 250, np.uint8)
        rows, columns, alpha = paste(canvas, plain_disc(), 50, 20, 0.5)
        ys, xs = np.nonzero(canvas[..., 1] < 100)
        assert abs(xs.mean() + 0.5 - 50) < 0.3
        assert abs(ys.mean() + 0.5 - 20) < 0.3
        # 0.5 of the shorter side, less the disc's margin.
        assert np.ptp(xs) + 1 == pytest.approx(30 * 92 / 96, abs=1.5)
        covered = np.zeros((60, 80), bool)
        covered[rows, columns] = alpha > 0
        assert ((canvas != 250).any(axis=2) <= covered).all()

    @given(
        x=st.floats(-200, 300),
        y=st.floats(-200, 300),
        scale=st.floats(0.02, 3),
        angle=st.floats(-360, 360),
        flip=st.booleans(),
    )
    @settings(max_examples=80)
    def test_it_is_clipped_anywhere(
        self, x: float, y: float, scale: float, angle: float, flip: bool
    ) -> None:
        canvas = np.full((40, 56, 3), 9, np.uint8)
        rows, columns, alpha = paste(canvas, plain_disc(48), x, y, scale, angle, flip)
        assert alpha.shape == canvas[rows, columns].shape[:2]
        untouched = np.ones((40, 56), bool)
        untouched[rows, columns] = alpha == 0
        assert (canvas[untouched] == 9).all()

    def test_a_flip_mirrors(self) -> None:
        image = np.zeros((48, 48, 4), np.uint8)
        image[8:40, 8:20] = 255
        plain, mirrored = (np.zeros((48, 48, 3), np.uint8) for _ in range(2))
        paste(plain, image, 24, 24, 1.0)
        paste(mirrored, image, 24, 24, 1.0, flip=True)
        np.testing.assert_array_equal(plain[:, ::-1], mirrored)

    def test_a_quarter_turn_turns_anticlockwise(self) -> None:
        image = np.zeros((48, 48, 4), np.uint8)
        image[4:12, 20:28] = 255  # a mark at the top
        canvas = np.zeros((48, 48, 3), np.uint8)
        paste(canvas, image, 24, 24, 1.0, angle=90)
        _, xs = np.nonzero(canvas[..., 0] > 127)
        assert xs.max() < 16  # on the left

    def test_alpha_blends(self) -> None:
        image = np.full((24, 24, 4), (200, 100, 0, 128), np.uint8)
        canvas = np.full((24, 24, 3), 100, np.uint8)
        paste(canvas, image, 12, 12, 1.0)
        np.testing.assert_allclose(canvas[12, 12], (150, 100, 50), atol=2)


class TestColours:
    @pytest.mark.parametrize("colour", COLOURS)
    @pytest.mark.parametrize("concept", TOY_CONCEPTS)
    def test_what_is_painted_is_named_so(
        self, toy_sprites: Sprites, colour: str, concept: str
    ) -> None:
        assert colour_of(paint(toy_sprites.image("noto", concept), colour)) == colour

    def test_a_shaded_image_keeps_its_shades(self) -> None:
        shades = np.full((32, 32, 4), 255, np.uint8)
        shades[..., :3] = np.linspace(0, 255, 32, dtype=np.uint8)[:, None, None]
        painted = paint(shades, "blue")
        brightness = painted[:, 0, :3].sum(axis=1).astype(int)
        assert (np.diff(brightness) >= 0).all()
        assert brightness[-1] - brightness[0] > 200

    def test_no_colour_is_named_where_none_prevails(self) -> None:
        image = np.full((32, 32, 4), 255, np.uint8)
        image[:16, :, :3], image[16:, :, :3] = COLOURS["red"], COLOURS["blue"]
        assert colour_of(image) is None

    @pytest.mark.parametrize("seed", range(6))
    def test_an_asked_colour_is_kept_by_every_change(self, toy_sprites: Sprites, seed: int) -> None:
        chosen = look(np.random.default_rng(seed), toy_sprites, "noto", "car", colour="red")
        assert chosen.colour == "red"
        seen = chosen.image[chosen.image[..., 3] > 200][:, :3].mean(axis=0)
        assert seen.argmax() == 0

    def test_line_drawings_are_filled(self, toy_sprites: Sprites) -> None:
        chosen = look(np.random.default_rng(0), toy_sprites, "fluent-line", "car", colour="green")
        assert chosen.colour == "green"
        assert (chosen.image[..., 3] >= toy_sprites.image("fluent-line", "car")[..., 3]).all()


def half_and_half(size: int = 96) -> np.ndarray:
    """A picture of two parts, each slightly shaded, with a margin that shows nothing."""
    image = np.zeros((size, size, 4), np.uint8)
    image[8:-8, 8:-8] = (200, 40, 40, 255)
    image[8:-8, size // 2 : -8, :3] = (40, 60, 200)
    image[8 : size // 2, 8:-8, :3] += 6
    return image


class TestAnotherArtist:
    """Parts in other colours, other proportions: what varies in training alone."""

    def test_parts_are_what_has_one_colour(self) -> None:
        parts = _parts_by_colour(half_and_half())
        left, right = parts[8:-8, 8:48], parts[8:-8, 48:-8]
        assert parts.shape == (96, 96)
        assert parts.max() < 5
        assert set(np.unique(left)).isdisjoint(np.unique(right))

    def test_hardly_visible_images_are_one_part(self) -> None:
        image = np.zeros((24, 24, 4), np.uint8)
        image[3, 3] = 255
        assert not _parts_by_colour(image).any()

    def test_what_has_one_colour_keeps_it(self) -> None:
        image = plain_disc()
        parts = _parts_by_colour(image)
        assert not parts.any()
        np.testing.assert_array_equal(_repainted(np.random.default_rng(0), image, parts), image)

    def test_parts_are_of_the_image_that_is_shown(self, toy_sprites: Sprites) -> None:
        for size in (24, 48, 96):
            shown = toy_sprites.image("noto", "dog", 0, size)
            assert toy_sprites.parts("noto", "dog", 0, size).shape == shown.shape[:2]

    @given(seed=st.integers(0, 2**32 - 1))
    @settings(max_examples=40)
    def test_parts_keep_their_place_and_change_their_colour(self, seed: int) -> None:
        image = half_and_half()
        parts = (np.arange(96) >= 48).astype(np.uint8)[None].repeat(96, axis=0)
        painted = _repainted(np.random.default_rng(seed), image, parts)
        np.testing.assert_array_equal(painted[..., 3], image[..., 3])
        for half in (painted[12:84, 12:44, :3], painted[12:84, 52:84, :3]):
            # Flat, or with the shades that it had, clipped where the new colour leaves no room.
            assert np.ptp(half.reshape(-1, 3), axis=0).max() <= 6

    def test_seeds_give_other_colours(self) -> None:
        image = half_and_half()
        parts = (np.arange(96) >= 48).astype(np.uint8)[None].repeat(96, axis=0)
        seen = {
            _repainted(np.random.default_rng(seed), image, parts)[20, 20].tobytes()
            for seed in range(20)
        }
        assert len(seen) > 8

    @given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([24, 48, 96]))
    @settings(max_examples=40)
    def test_proportions_change_a_little(self, seed: int, size: int) -> None:
        image = plain_disc(size)
        bent = _bent(np.random.default_rng(seed), image)
        assert bent.shape == image.shape
        before, after = image[..., 3] > 127, bent[..., 3] > 127
        assert (before & after).sum() > 0.7 * (before | after).sum()
        assert (before != after).any()

    def test_an_artist_s_own_image_stays_as_it_is(self, toy_sprites: Sprites) -> None:
        own = look(np.random.default_rng(5), toy_sprites, "noto", "dog", augment=False)
        np.testing.assert_array_equal(own.image, toy_sprites.image("noto", "dog"))

    def test_what_varies_is_named_by_the_colour_that_it_got(self, toy_sprites: Sprites) -> None:
        looks = [
            look(np.random.default_rng(seed), toy_sprites, "noto", "car") for seed in range(60)
        ]
        assert len({thing.colour for thing in looks}) > 4


def test_a_silhouette_holds_what_lines_enclose(toy_sprites: Sprites) -> None:
    from training.world.sprites import _silhouette

    ring = np.zeros((96, 96, 4), np.uint8)
    cv2.circle(ring, (48, 48), 40, (0, 0, 0, 255), 4)
    inside = _silhouette(ring)
    assert inside[48, 48] == 255
    assert inside[2, 2] == 0


@pytest.mark.parametrize("size", [24, 64])
def test_backgrounds_vary_and_repeat(size: int) -> None:
    pictures = [background(np.random.default_rng(seed), size) for seed in range(30)]
    assert all(picture.shape == (size, size, 3) for picture in pictures)
    assert len({picture.tobytes() for picture in pictures}) == 30
    again = background(np.random.default_rng(4), size)
    np.testing.assert_array_equal(again, pictures[4])


def test_smaller_sprites_are_taken_for_smaller_objects(toy_sprites: Sprites) -> None:
    sizes = [
        toy_sprites.image("noto", "dog", 0, wanted).shape[0] for wanted in (8, 24, 25, 60, 300)
    ]
    assert sizes == [24, 24, 48, 96, 96]
