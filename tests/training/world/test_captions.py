from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from training.world.captions import Caption, Mention, all_words, describe, is_true
from training.world.colours import COLOURS
from training.world.compose import FrameSettings, Placed, compose_frame
from training.world.concepts import CONCEPTS, INDEX, article
from training.world.sprites import Sprites


def placed(concept: str, colour: str | None = None) -> Placed:
    return Placed(concept, colour, (0.0, 0.0, 1.0, 1.0), 1.0)


things = st.builds(
    placed,
    st.sampled_from([concept.name for concept in CONCEPTS]),
    st.sampled_from([None, *COLOURS]),
)


@given(seed=st.integers(0, 2**32 - 1), objects=st.lists(things, min_size=1, max_size=3))
def test_captions_are_true_in_known_words(seed: int, objects: list[Placed]) -> None:
    caption = describe(np.random.default_rng(seed), objects)
    assert caption == describe(np.random.default_rng(seed), objects)
    assert is_true(caption, objects)
    assert set(caption.text.split()) <= set(all_words())
    assert "{" not in caption.text
    for mention in caption.mentions:
        names = CONCEPTS[INDEX[mention.concept]].names
        assert any(name in caption.text for name in names)
        assert mention.colour is None or mention.colour in caption.text
    said = {word for word in caption.text.split() if word in COLOURS}
    claimed = {mention.colour for mention in caption.mentions if mention.colour}
    assert said == claimed


def test_truth_needs_every_mention_and_its_colour() -> None:
    both = Caption("a red car and a dog", (Mention("car", "red"), Mention("dog", None)))
    assert is_true(both, [placed("dog", "blue"), placed("car", "red")])
    assert not is_true(both, [placed("car", "red")])
    assert not is_true(both, [placed("dog"), placed("car", "blue")])
    assert not is_true(both, [placed("dog", "red"), placed("car")])


def test_wordings_are_many() -> None:
    rng = np.random.default_rng(0)
    texts = {describe(rng, [placed("dog", "blue"), placed("fox")]).text for _ in range(500)}
    assert len(texts) > 300
    assert any("moving" in text for text in texts)
    assert any("next to" in text for text in texts)


def test_articles() -> None:
    assert article("elephant") == "an elephant"
    assert article("umbrella") == "an umbrella"
    assert article("unicorn") == "a unicorn"
    assert article("red apple") == "a red apple"


def test_a_frame_is_described_by_what_it_shows(toy_sprites: Sprites) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        frame = compose_frame(rng, toy_sprites, "noto", FrameSettings())
        assert is_true(describe(rng, frame.objects), frame.objects)
