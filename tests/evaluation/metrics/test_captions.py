"""BLEU, CIDEr, ROUGE-L and the words they see: the figures are those of pycocoevalcap 1.2 with its own tokenizer."""

import numpy as np
import pytest

from foveal.evaluation.metrics import bleu, cider, rouge_l
from foveal.evaluation.metrics._words import words
from tests.evaluation.asking import ask

TRUE = (
    ["A man riding a wave on top of a surfboard.", "A surfer isn't falling off his board."],
    ["Two dogs are playing with a red ball (on grass).", "The dogs' owner throws a ball!", "Dogs play on the grass."],
    ["A black-and-white photo of a clock tower.", "An old clock tower, seen at 10:30 a.m."],
)
ASKED = [ask(each[0], answers=each, scene=str(i)) for i, each in enumerate(TRUE)]
SAID = ["A man is riding a wave on a surfboard.", "Two dogs play with a ball on the grass", "a clock tower"]


@pytest.mark.parametrize(
    ("caption", "official"),
    [
        ("A man (in red) isn't riding the dog's bike.", "a man -lrb- in red -rrb- is n't riding the dog 's bike"),
        ('The sign says "STOP" - it\'s 10:30 a.m. on 5/12.', "the sign says stop it 's 10:30 a.m. on 5/12"),
        ("A 3-year-old boy can't eat 1,000 hot-dogs!", "a 3-year-old boy ca n't eat 1,000 hot-dogs"),
        ("U.S. flag and Mr. Smith's car cost $3.50 or 50%.", "u.s. flag and mr. smith 's car cost $ 3.50 or 50 %"),
        ("woman's shirts' colors: red/green/blue -- nice", "woman 's shirts colors red/green/blue nice"),
        ("I'm gonna go; you'd better, I've 2 o'clock tea", "i 'm gon na go you 'd better i 've 2 o'clock tea"),
        ("cannot don't won't shouldn't've", "can not do n't wo n't should n't 've"),
        ("person_1 and A&W root-beer <b>bold</b> [x]", "person_1 and a&w root-beer <b> bold </b> -lsb- x -rsb-"),
        ("Is it... ok?! yes!!", "is it ok ?! yes !!"),
        ("\u092a\u093e\u0928\u0940 \u092a\u0940.", "\u092a\u093e\u0928\u0940 \u092a\u0940"),  # vowel signs stay
        ("Rock 'n' roll band of '57, No. 7", "rock 'n' roll band of '57 no. 7"),
        ("A woman in a hat.It is red.", "a woman in a hat.it is red"),
        ("Y'all wanna come back", "y' all wan na come back"),
    ],
)  # fmt: skip
def test_words_are_those_of_stanfords_tokenizer(caption, official):
    assert words(caption) == official.split()


def figure(metric, said=SAID):
    return metric.figures(metric.parts(ASKED, said).sum(0))


def test_bleu():
    known = [0.3559299907513366, 0.5774927368337416, 0.8498365855144884, 0.999999999904762]
    assert figure(bleu) == pytest.approx(known, abs=1e-6)


def test_cider():
    assert cider.scores(SAID, TRUE) == pytest.approx([2.4691158, 2.09404651, 2.44595071], abs=1e-6)
    assert figure(cider) == pytest.approx([2.336371006250291], abs=1e-6)


def test_rouge_l():
    assert rouge_l.parts(ASKED, SAID)[:, 0] == pytest.approx([0.83418803, 0.8951782, 0.55963303], abs=1e-6)
    assert figure(rouge_l) == pytest.approx([0.7629997529253197], abs=1e-6)


@pytest.mark.parametrize("metric", [bleu, cider, rouge_l])
def test_silence_earns_nothing(metric):
    assert np.all(figure(metric, ["", "", "..."]) < 1e-3) and np.isfinite(figure(metric, [""] * 3)).all()
