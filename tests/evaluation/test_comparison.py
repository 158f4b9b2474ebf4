import re
import subprocess

import pytest

from foveal.core.example import Example
from foveal.evaluation.cells import Record
from foveal.evaluation.chart import Mark, chart, number
from foveal.evaluation.comparison import Dispute, Page, Said, page
from foveal.evaluation.questions import Question
from foveal.evaluation.score import Rate, score
from foveal.evaluation.summary import front, gaps, plain, rows
from tests.browser import chromium

EMPTY = Example(id="", messages=())
ASKED = [
    Question(id=str(i), scene=str(i // 2), kind=("a", "b")[i % 2], text="?", truth="yes", example=EMPTY)
    for i in range(40)
]


def answers(right):
    return ["yes"] * right + ["no"] * (40 - right)


def record(system, seed, **right):
    cells = [
        {
            "strategy": name,
            "wanted": None if name in ("all", "text_only") else 0.25,
            "tokens": 16.0 if name == "all" else 4.0,
            "flops": {"language": 1e6 if name == "all" else 4e5},
            "seconds": 1.0,
            "answers": answers(count),
            "state": "done",
        }
        for name, count in right.items()
    ]
    training = {"flops": {"language": 1e9, "backward": 2e9}, "state": "done"}
    length = {"samples": 100, "steps": None, "flops": None}
    about = {"system": system, "family": "late", "seed": seed, "length": length}
    return {**about, "training": training, "cells": cells}


RECORDS = [
    record("one", 0, all=36, foveal=34, random=20, text_only=10),
    record("one", 1, all=34, foveal=34, random=22, text_only=12),
    record("two", 0, all=24, foveal=22, random=21, text_only=10),
]


def test_trainings_of_a_system_become_one_row():
    found = {(row.system, row.strategy): row for row in rows(ASKED, RECORDS)}
    one = found["one", "all"]
    assert one.seeds == (0, 1) and one.scores.exact_match.value == pytest.approx(35 / 40)
    assert one.training_flops == 3e9 and one.flips is None
    assert found["one", "foveal"].flips == pytest.approx((2 + 0) / 80)
    assert plain(one)["exact_match"]["value"] == pytest.approx(35 / 40) and plain(one)["length"] == "100 samples"
    unfinished = [{**RECORDS[2], "cells": [{**RECORDS[2]["cells"][0], "state": "failed"}]}]
    assert rows(ASKED, unfinished) == []


def test_the_front_holds_what_no_cheaper_one_beats():
    found = rows(ASKED, RECORDS)
    assert [row.name for row in front([row for row in found if row.strategy != "text_only"], "tokens")] == [
        "one, foveal 4",
        "one",
    ]


def test_what_is_paired():
    told = {(gap.ours.name, gap.theirs.name): gap for gap in gaps(ASKED, rows(ASKED, RECORDS))}
    assert told["one", "one, no images"].sure and told["one", "one, no images"].rate.value == pytest.approx(24 / 40)
    assert ("one", "two") in told and ("one, foveal 4", "one, random 4") in told
    assert ("one, foveal 4", "two, foveal 4") not in told and len(told) == 5


def test_of_one_scene_nothing_is_sure():
    of = slice(20, 22)  # which all that see get right, and none of the blind
    few = [
        {**record, "cells": [{**cell, "answers": cell["answers"][of]} for cell in record["cells"]]}
        for record in RECORDS
    ]
    found = gaps(ASKED[of], rows(ASKED[of], few))
    assert any(gap.rate.low > 0 for gap in found) and not any(gap.sure for gap in found)


def test_systems_that_were_trained_under_other_strategies_are_paired_each_by_its_own():
    def trained(number, allocator):
        return {**RECORDS[number], "config": {"model": {"allocator": allocator}}}

    pairs = [("foveal", {"name": "random", "budget": 8}), ("foveal", {"name": "foveal"}), (None, "random")]
    found = []
    for one, two in pairs:
        told = gaps(ASKED, rows(ASKED, [trained(0, one), trained(2, two)]))
        found.append([(gap.ours.name, gap.theirs.name) for gap in told if gap.ours.system != gap.theirs.system])
    assert found[0] == [("one", "two"), ("one, foveal 4", "two, random 4")]
    assert found[1] == found[2] == [("one", "two")]


def test_a_record_is_whole_and_of_one_key(tmp_path):
    file = tmp_path / "cells" / "one.json"
    kept = Record.open(file, key="k")
    assert not kept.begun
    kept.put(key="k", training={"state": "done"})
    kept.add({"state": "failed"}, strategy="all", wanted=None)
    assert Record.open(file, key="k").cell(strategy="all", wanted=None) is None
    kept.add({"state": "done"}, strategy="all", wanted=None)
    again = Record.open(file, key="k")
    assert again.trained and again.cell(strategy="all", wanted=None) and len(again.cells) == 1
    assert not Record.open(file, key="other").begun


def test_a_chart_names_its_points_and_numbers_are_short():
    rate = Rate(value=0.5, low=0.4, high=0.6, count=10)
    drawn = chart(
        [Mark(name="<a>", group="a", x=10.0, rate=rate), Mark(name="b", group="b", x=300.0, rate=rate)], across="x"
    )
    assert "&lt;a&gt;: 50.0%" in drawn and drawn.count('class="point"') == 2
    assert "Nothing to draw" in chart([], across="x")
    assert [number(value) for value in (3, 1234, 5.6e9, 1e15)] == ["3", "1.23k", "5.6G", "1P"]


@pytest.fixture
def report(tmp_path):
    from io import BytesIO

    from PIL import Image

    stream = BytesIO()
    Image.new("RGB", (8, 8), "red").save(stream, "JPEG")
    said = Said(name="one", answer="<b>", right=False, boxes=[(0.0, 0.0, 0.5, 1.0)], shares=[[100, 3], [50, 0]])
    dispute = Dispute(jpeg=stream.getvalue(), question="what?", truth="yes", said=(said,))
    found = rows(ASKED, RECORDS)
    made = Page(
        title="A comparison", summary="s", rows=found, gaps=gaps(ASKED, found), disputes=[dispute],
        baselines={"majority": score(ASKED, answers(20))}, made={"revision": "abc"}, commands=["foveal compare x"],
        losses={"one": {"learn": [(i, 3.0 / (1 + i)) for i in range(10)]}},
        failures=[{"what": "three", "state": "failed", "error": "no <room>"}],
    )  # fmt: skip
    file = tmp_path / "report.html"
    file.write_text(page(made))
    return file


def test_the_page_says_all_and_fetches_nothing(report):
    told = report.read_text()
    for words in ("&lt;b&gt;", "no &lt;room&gt;", "foveal compare x", "one, foveal 4", 'class="front"', 'class="warm"'):
        assert words in told
    assert not re.search(r"(src|href)=[\"'](?!data:)", told)


def test_a_browser_opens_it_without_errors_and_its_tables_sort(report, tmp_path):
    click = "document.querySelectorAll('table.sorts th button')[4].click()"
    text = report.read_text().replace("</body>", f"<script>{click}</script></body>")
    report.write_text(text)
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        f"--user-data-dir={tmp_path / 'b'}",
    ]
    shown = subprocess.run(
        [chromium(), *flags, "--dump-dom", report.as_uri()], capture_output=True, text=True, timeout=300, check=True
    )
    assert "CONSOLE" not in shown.stderr
    first = shown.stdout.partition("<tbody>")[2].partition("</tbody>")[0]
    sorted_by = [
        float(value) for value in re.findall(r"<tr>(?:.*?data-by=\"[^\"]*\"){4}.*?data-by=\"([^\"]*)\"", first)
    ]
    assert len(sorted_by) == 9 and sorted_by == sorted(sorted_by, reverse=True)
    assert 'aria-sort="descending"' in shown.stdout
