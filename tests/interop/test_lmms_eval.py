"""The adapter in lmms-eval itself: found by its name, and scored on a task of its own format."""

import datasets
import numpy as np
import pytest
from lmms_eval.api.instance import Instance
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.models import get_model
from lmms_eval.tasks import TaskManager
from PIL import Image

from foveal.core.errors import InputError
from foveal.core.example import Example
from tests.tiny import tiny_run

WORDS = ["what colour is it", "how many", "red green blue one two three"]
TASK = """
dataset_path: {path}
dataset_kwargs: {{data_files: {{test: {path}/test.parquet}}}}
test_split: test
doc_to_visual: !function looks.shown
doc_to_text: "{{{{question}}}}"
metric_list: [{{metric: {metric}, aggregation: mean, higher_is_better: true}}]
task: {name}
output_type: {kind}
{more}
"""
SHOWN = "def shown(doc):\n    return [doc['image'].convert('RGB')]\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run, and a data set that it answers as it does."""
    folder = tmp_path_factory.mktemp("lmms")
    run, rows = tiny_run(WORDS), []
    for number in range(5):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 28, 3), np.uint8)
        image, text = Image.fromarray(pixels), ("what colour is it", "how many")[number % 2]
        said = run.answer(image, text, max_new_tokens=4).text.strip()
        rows.append({"image": image, "question": text, "answer": said})
    run.save(folder / "run")
    features = datasets.Features(
        {"image": datasets.Image(), "question": datasets.Value("string"), "answer": datasets.Value("string")}
    )
    (folder / "data").mkdir()
    datasets.Dataset.from_list(rows, features=features).to_parquet(str(folder / "data/test.parquet"))
    (folder / "tasks").mkdir()
    (folder / "tasks/looks.py").write_text(SHOWN)
    write(
        folder, "said", "exact_match", "generate_until", "doc_to_target: answer\ngeneration_kwargs: {max_new_tokens: 4}"
    )
    write(
        folder, "picked", "acc", "multiple_choice", 'doc_to_target: 0\ndoc_to_choice: ["{{answer}}", "three three red"]'
    )
    return folder


def write(folder, name, metric, kind, more):
    text = TASK.format(path=folder / "data", name=name, metric=metric, kind=kind, more=more)
    (folder / f"tasks/{name}.yaml").write_text(text)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.filterwarnings("ignore")
def test_lmms_eval_scores_a_run_by_its_name(made, batch):
    found = simple_evaluate(
        model="foveal",
        model_args=f"pretrained={made / 'run'},device=cpu",
        tasks=["said"],
        batch_size=batch,
        task_manager=TaskManager(include_path=str(made / "tasks"), include_defaults=False),
    )
    assert found["results"]["said"]["exact_match,none"] == 1.0


def test_the_least_loss_is_that_of_what_it_would_say(made):
    model = get_model("foveal")(pretrained=str(made / "run"), device="cpu", batch_size=4)
    rows = datasets.load_dataset("parquet", data_files=str(made / "data/test.parquet"), split="train")
    model.task_dict = {"picked": {"test": rows}}
    shown = lambda doc: [doc["image"].convert("RGB")]  # noqa: E731
    about = {"task": "picked", "doc_id": 0, "repeats": 1}
    pairs = [
        (row["question"], answer, number) for number, row in enumerate(rows) for answer in ("red", "one two three")
    ]
    requests = [
        Instance("loglikelihood", (text, answer, shown, number, "picked", "test"), idx=0, metadata=about)
        for text, answer, number in pairs
    ]
    together = model.loglikelihood(requests)
    model.batch_size = 1
    assert [loss for loss, _ in together] == pytest.approx(
        [loss for loss, _ in model.loglikelihood(requests)], abs=1e-4
    )
    assert all(together[i][0] < together[i + 1][0] for i in range(0, len(together), 2))  # fewer words, less to miss


def test_budgets_and_batches_that_are_none_are_refused_and_idle_strategies_told(made, caplog):
    start = lambda **given: get_model("foveal")(pretrained=str(made / "run"), device="cpu", **given)  # noqa: E731
    for wrong in ({"budget": 0}, {"budget": 1.5}, {"budget": "abc"}, {"batch_size": "auto"}, {"batch_size": 0}):
        with pytest.raises(InputError, match="no whole number of 1 or more"):
            start(**wrong)
    assert start(budget="3", strategy="random").loaded.model.allocator.budget == 3 and not caplog.records
    start(strategy="random")
    assert "strategy 'random' spends a budget and there is none" in caplog.text


def test_what_is_not_there_is_refused(made):
    model = get_model("foveal")(pretrained=str(made / "run"), device="cpu")
    with pytest.raises(InputError, match="tasks of several rounds are not supported"):
        model.generate_until_multi_round([])
    assert isinstance(model._question("how many", None, 0, "", ""), Example)
