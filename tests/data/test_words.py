import pytest

from foveal.core.errors import InputError
from foveal.data.backgrounds import INKS
from foveal.data.geometry import REGIONS
from foveal.data.words import WORDS, words


def test_words_are_short_and_distinct():
    assert len(WORDS) >= 100 and len(set(WORDS)) == len(WORDS)
    assert all(word.isascii() and word.islower() and word.isalpha() and 3 <= len(word) <= 8 for word in WORDS)


def test_no_word_is_a_colour_or_a_place():
    assert not set(WORDS) & {*INKS, *" ".join(REGIONS).split()}


def test_the_first_words():
    assert words(5) == WORDS[:5]
    with pytest.raises(InputError, match="0 words asked for; choose 1 to"):
        words(0)
