from foveal.core.example import Example
from foveal.evaluation.baselines import Majority
from foveal.evaluation.questions import Question


def ask(kind, text, truth=""):
    return Question(id="", scene="s", kind=kind, text=text, truth=truth, example=Example(id="", messages=()))


TRAINED = [
    ask("where", "Where is the fox?", "Top left."),
    ask("where", "Where is the fox?", "bottom"),
    ask("where", "Where is the owl?", "bottom"),
    ask("count", "How many foxes?", "Two"),
    ask("count", "How many owls?", "2"),
    ask("count", "How many owls?", "5"),
]


def test_the_most_frequent_answer_of_a_kind():
    majority = Majority.of(TRAINED)
    assert majority.answers([ask("where", "Where is the pig?"), ask("count", "How many?")]) == ["bottom", "Two"]


def test_a_new_kind_gets_the_most_frequent_answer_of_all():
    assert Majority.of(TRAINED).answers([ask("read", "What does it say?")]) == ["bottom"]


def test_the_words_of_the_question_come_before_its_kind():
    majority = Majority.of(TRAINED)
    assert majority.answers_by_question([ask("where", "where is the fox")]) == ["Top left."]
    assert majority.answers_by_question([ask("where", "Where is the pig?")]) == ["bottom"]


def test_without_training_questions_nothing_is_answered():
    assert Majority.of([]).answers([ask("where", "Where?")]) == [""]


def test_what_is_said_is_the_most_frequent_spelling_since_metrics_may_want_more_than_exact_match():
    asked = [ask("k", "?", truth) for truth in ("12:30", "T-shirt", "t-shirt", "t-shirt")]
    assert Majority.of(asked).answers(asked[:1]) == ["t-shirt"]
    assert Majority.of(asked[:1]).answers_by_question(asked[:1]) == ["12:30"]
