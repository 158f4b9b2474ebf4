import numpy as np
import pytest

from foveal.core.errors import InputError
from foveal.core.example import Box
from foveal.evaluation.measure import ahead, measure, metric, metrics, of_captions, over, plain, wanted
from foveal.evaluation.score import score, score_trainings
from tests.evaluation.asking import ask

GOLDS = ("yes",) * 9 + ("no",)


def some(count, *, scenes=40):
    random = np.random.default_rng(0)
    box = Box(label="dog", xyxy=(0.0, 0.0, 10.0, 10.0))
    return [
        ask(
            "yes", answers=GOLDS, scene=str(random.integers(scenes)), kind=f"k{i % 3}", boxes=(box,),
            meta={"size": [20, 20]},
        )
        for i in range(count)
    ]  # fmt: skip


def test_those_that_score_answers_are_found_by_their_files():
    assert set(metrics()) == {
        "anls", "bleu", "box_accuracy", "cider", "exact_match", "pope", "relaxed", "rouge_l", "textvqa", "vqa"
    }  # fmt: skip
    assert {name for name in metrics() if of_captions(name)} == {"bleu", "cider", "rouge_l"}
    with pytest.raises(InputError, match="unknown metric 'vqe'; did you mean 'vqa'"):
        metric("vqe")
    with pytest.raises(InputError, match="unknown metric 'retrieval'"):
        metric("retrieval")


@pytest.mark.parametrize("name", metrics())
def test_every_metric_tells_its_figures_with_intervals(name):
    asked = some(90)
    found = measure(name, asked, ["yes" if i % 3 else "[0, 0, 0.5, 0.5]" for i in range(90)])
    assert tuple(found.figures) == tuple(metric(name).FIGURES) and set(found.kinds) == {"k0", "k1", "k2"}
    for rate in (*found.figures.values(), *found.kinds.values()):
        assert rate.low <= rate.value + 1e-9 and rate.value <= rate.high + 1e-9
    assert next(iter(found.figures.values())).count == 90
    assert plain(found)["metric"] == name


@pytest.mark.parametrize("name", metrics())
def test_a_lead_over_oneself_is_nothing(name):
    asked, said = some(30), ["yes", "no", "maybe"] * 10
    assert (lead := ahead(name, asked, said, said)).value == lead.low == lead.high == 0


def test_exact_match_is_that_of_the_table():
    asked = [ask("yes", scene=str(i % 20), kind=f"k{i % 2}") for i in range(60)]
    said = ["yes" if i % 4 else "no" for i in range(60)]
    known, found = score(asked, said).exact_match, measure("exact_match", asked, said).figures["exact_match"]
    assert (found.value, found.low, found.high) == pytest.approx((known.value, known.low, known.high))


def test_a_paired_lead_is_the_difference():
    asked = some(60)
    ours, theirs = ["yes"] * 60, ["yes" if i % 3 else "no" for i in range(60)]
    lead = ahead("vqa", asked, ours, theirs)
    assert lead.value == pytest.approx(20 / 60 * (1 - 0.3)) and 0 < lead.low < lead.value < lead.high


def test_the_data_name_their_metric():
    asked = [ask("a", meta={"metric": "anls"}), ask("b", meta={"metric": "anls"})]
    assert wanted(asked) == "anls" and wanted([ask("a")]) == "exact_match"
    with pytest.raises(InputError, match="ask for the metrics anls, exact_match; choose one of them with --metric"):
        wanted([*asked, ask("c")])


def test_an_answer_for_each_question():
    with pytest.raises(InputError, match="1 answers to 2 questions"):
        measure("vqa", some(2), ["yes"])


def test_over_trainings_it_is_what_the_scores_are():
    asked = some(60)
    random = np.random.default_rng(1)
    trainings = [["yes" if random.random() < share else "maybe" for _ in asked] for share in (0.9, 0.6, 0.3)]
    found, known = over("exact_match", asked, trainings), score_trainings(asked, trainings).exact_match
    assert found.value == pytest.approx(known.value) and found.count == known.count == 60
    assert found.low == pytest.approx(known.low, abs=0.05) and found.high == pytest.approx(known.high, abs=0.05)
    alone, one = over("exact_match", asked, trainings[:1]), measure("exact_match", asked, trainings[0])
    assert alone == one.figures["exact_match"]
