from foveal.evaluation.proof import Proof, grid, page
from foveal.evaluation.score import score
from foveal.evaluation.spending import Control, Spent
from tests.evaluation.test_aims import ASKED, a_time, row, said

ROWS = [
    row("all", None, 20, 20),
    row("grid", 4, 10, 12),
    row("grid", 2, 8, 3),
    row("foveal", 4, 20, 19),
    Spent(
        strategy="foveal",
        budget=2,
        answers=(said(20, 10),),
        tokens=2.0,
        divergence=0.25,
        controls={
            "shuffled": Control(places=tuple(range(40)), answers=said(10, 5)),
            "wrong_object": Control(places=(), answers=()),
        },
    ),
    Spent(strategy="random", budget=4, answers=(said(20, 20), said(0, 0)), tokens=4.0),
    Spent(strategy="random", budget=2, answers=(said(2, 2), said(0, 0)), tokens=2.0),
    row("fastv", 4, 20, 20, tokens=10.0),
    row("fastv", 2, 20, 20, tokens=9.0),
    Spent(strategy="scope", budget=4, refused="strategy 'scope' needs what is not there"),
    Spent(strategy="scope", budget=2, refused="strategy 'scope' needs what is not there"),
]
TIMES = {("all", None): a_time(faster=1.0), ("foveal", 16): a_time(), ("foveal", 8): a_time(faster=3.5, share=0.01)}
PROOF = Proof(
    asked=ASKED,
    rows=ROWS,
    budgets={0.25: 4, 0.11: 2},
    text_only=score(ASKED, said(1, 2)),
    times={16: "this encoder has one size", 32: TIMES},
    commands=["python bench/relevance.py"],
    made={"revision": "abc"},
    limits=["It is small."],
)


def test_the_page_tells_every_part_and_all_of_it_is_computed():
    told = page(PROOF)
    assert told.isascii() and told.count("# Relevance under budgets") == 1
    for words in (
        "40 questions about 40 scenes",
        "25% (4), 11% (2)",
        "python bench/relevance.py",
        "- It is small.",
        "- revision: abc",
        "n/a: this encoder has one size",
        "- n/a: strategy 'scope' needs what is not there",
        "| text only (a twin without images) | 7.5 ",
        "| random (2 draws) | 50.0 ",
        "| fastv (a layer reads 10, 9) | 100.0 ",
        "| scope | n/a | n/a |",
        "| foveal | 2.5 | n/a | 25.0 | 0.25 |",
        "| foveal | 2 | shuffled | 40 | +37.5 ",
        "| foveal | 2 | wrong object | 0 | n/a |",
    ):
        assert words in told, words
    assert told.count("## By kind, ") == 2


def test_each_aim_is_stated_with_how_far():
    told = page(PROOF)
    lines = [line for line in told.partition("## Aims")[2].partition("## All")[0].splitlines() if "---" not in line]
    first, second, third, fourth, fifth, sixth = (
        line for line in lines if line.startswith("| ") and "how far" not in line
    )
    assert "**met** | best in 6" in first
    assert "**missed**" in second and "fastv" in second
    assert "not measured" in third
    assert "**missed** | 75.0 of 100.0 right: 75.0%; 22.0 points short" in fourth
    assert "at 32 px" in fifth and "**met** | 3.50x with 8 tokens" in fifth
    assert "**met** | 1.0% with 8 tokens" in sixth


def test_without_twin_times_and_controls_that_is_said():
    bare = Proof(asked=ASKED, rows=[*ROWS[:2], row("foveal", 4, 20, 19)], budgets={0.25: 4})
    told = page(bare)
    assert "no twin of this run was trained without images" in told
    assert "Not asked for." in told
    assert told.count("| not measured | not measured |") == 3
    assert "## Time" not in told and "## What could not be" not in told


def test_tables_are_markdown():
    assert grid(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
