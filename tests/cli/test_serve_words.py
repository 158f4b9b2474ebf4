import pytest

from foveal.cli._serve_words import Words, cut, sure


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("a b c", (), ("a b c", False)),
        ("a b c", ("c", " b"), ("a", True)),
        ("a b c", ("d",), ("a b c", False)),
        ("a b", ("a b", "b"), ("", True)),
    ],
)
def test_the_first_stop_ends_the_text(text, stops, expected):
    assert cut(text, stops) == expected


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("one two", (), "one two"),
        ("one \n", (), "one"),
        ("one caf\ufffd", (), "one caf"),
        ("one \ufffd\ufffd", (), "one"),
        ("say STO", ("STOP",), "say"),
        ("say STOne", ("STOP",), "say STOne"),
        ("aab", ("aabc", "b!"), ""),
        ("a\n\n", ("\n\nQ",), "a"),
        ("xaaa", ("aab",), "xa"),
    ],
)
def test_what_may_still_be_taken_back_waits(text, stops, expected):
    assert sure(text, stops) == expected


def test_the_parts_make_the_whole_and_no_stop_is_told_before_it_is_certain():
    whole = " It is a \u00e9l\u00e8ve, is\n it?\n\nQ: and so on"
    for stops in ((), ("\n\nQ",), (" so", "?\n"), ("nowhere",), ("It",)):
        words, parts = Words(stops), []
        for end in range(len(whole) + 1):
            parts.append(words.grow(whole[:end]))
            if words.stopped:
                break
        parts.append(words.end())
        assert "".join(parts) == words.text == cut(whole.strip(), stops)[0].strip()


def test_half_a_character_is_told_when_nothing_more_comes():
    words = Words(())
    assert (words.grow("a"), words.grow("a \ufffd"), words.end(), words.text) == ("a", "", " \ufffd", "a \ufffd")


def test_what_was_rewritten_is_told_anew():
    words = Words(())
    assert [words.grow("do n"), words.grow("don't"), words.end()] == ["do n", "", "\ndon't"]
