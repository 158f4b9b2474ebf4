import pytest

from foveal.evaluation.words import is_mark, plain


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The fox's -- top-left!", "the foxs top left"),
        ("(C#), C++; a # b", "c# c++ a b"),
        ("1,000,000.5 and 1,2,3", "1000000.5 and 1 2 3"),
        ("-3 to -$4.50, 5-6, <-7, 8 - 9", "-3 to -$4.50 5 6 <-7 8 9"),
        ("v.5 is .5... 1..5", "v 5 is .5 1 5"),
        ("- + .", ""),
    ],
)
def test_punctuation_goes_and_what_tells_words_apart_stays(text, words):
    assert plain(text) == words == plain(words)


def test_marks_are_no_letters():
    assert is_mark("\u0301") and is_mark("\u093f") and not is_mark("a") and not is_mark("+")
