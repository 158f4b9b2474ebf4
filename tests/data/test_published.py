"""Small made files, laid out as the data sets publish theirs, become ours."""

import json
import pickle

import pytest
from PIL import Image

from foveal.core.errors import InputError
from foveal.data.convert import convert
from foveal.data.format import read, said


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 48)).save(path)


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def converted(root, layout, split="val", source=None):
    convert(source or root, root / "out", layout, split=split, force=True)
    return read(root / "out", split=split)


def asked(example):
    return said(example, "user")[0], said(example, "assistant")[0]


def vqav2(root):
    picture(root / "Images/mscoco/val2014/COCO_val2014_000000000042.jpg")
    name = "mscoco_val2014_annotations.json"
    answers = [{"answer": "red", "answer_id": n} for n in range(1, 11)]
    row = {"question_id": 1, "multiple_choice_answer": "red", "answers": answers, "answer_type": "other"}
    put(root / f"Annotations/v2_{name}", {"annotations": [row]})
    asked = [{"question_id": 1, "image_id": 42, "question": "What colour?"}]
    put(root / "Questions/v2_OpenEnded_mscoco_val2014_questions.json", {"data_subtype": "val2014", "questions": asked})


def test_vqav2_in_the_folders_of_its_own_tools(root):
    vqav2(root)
    (example,) = converted(root, "vqav2")
    assert asked(example) == ("What colour?", "red") and example.meta["answers"] == ["red"] * 10
    assert example.meta["metric"] == "vqa" and example.meta["kind"] == "other"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "published"


def gqa(root, **row):
    picture(root / "images/2405722.jpg")
    known = {"question": "Is it red?", "answer": "no", "imageId": "2405722", "fullAnswer": "No, it is blue.",
             "types": {"structural": "verify", "semantic": "attr"}, **row}  # fmt: skip
    return put(root / "questions1.2/val_balanced_questions.json", {"05451384": known})


def test_gqa(root):
    gqa(root)
    (example,) = converted(root, "gqa")
    assert (example.id, *asked(example)) == ("05451384", "Is it red?", "no")
    assert example.meta["kind"] == "verify" and example.meta["scene"] == "2405722"
    assert example.meta["full_answer"] == "No, it is blue." and example.meta["metric"] == "exact_match"


def textvqa(root, **row):
    picture(root / "train_images/003a8ae2ef43b901.jpg")
    known = {"question": "what brand?", "image_id": "003a8ae2ef43b901", "question_id": 34602,
             "answers": ["nokia"] * 6 + ["Nokia 3310"] * 4, **row}  # fmt: skip
    return put(root / "TextVQA_0.5.1_val.json", {"dataset_type": "val", "data": [known]})


def test_textvqa(root):
    textvqa(root)
    (example,) = converted(root, "textvqa")
    assert (example.id, *asked(example)) == ("34602", "what brand?", "nokia")
    assert len(example.meta["answers"]) == 10 and example.meta["metric"] == "textvqa"


@pytest.mark.parametrize(("answers", "answer"), [([""] * 6 + ["a", "b", "b", "b"], "b"), ([""] * 10, "")])
def test_an_answer_that_people_left_empty_gives_way_to_another(root, answers, answer):
    textvqa(root, answers=answers)
    (example,) = converted(root, "textvqa")
    assert example.answer == answer and example.meta["answers"] == answers


def test_docvqa(root):
    picture(root / "spdocvqa_images/ffbf0227_193.png")
    row = {"questionId": 337, "question": "what is the date?", "question_types": ["form", "table"],
           "image": "documents/ffbf0227_193.png", "docId": 279, "answers": ["1/8/93", "1-8-93"]}  # fmt: skip
    put(root / "spdocvqa_qas/val_v1.0_withQT.json", {"dataset_name": "SP-DocVQA", "data": [row]})
    (example,) = converted(root, "docvqa")
    assert asked(example) == ("what is the date?", "1/8/93") and example.meta["answers"] == ["1/8/93", "1-8-93"]
    assert example.meta["metric"] == "anls" and example.meta["kind"] == "form"
    assert example.images[0].name == "ffbf0227_193.png"


def test_docvqa_answers_with_the_first_that_is_not_empty(root):
    picture(root / "documents/a.png")
    row = {"questionId": 1, "question": "Which?", "image": "documents/a.png", "answers": ["", "x"]}
    put(root / "val_v1.0.json", {"data": [row]})
    assert converted(root, "docvqa")[0].answer == "x"


def test_docvqa_as_it_lay_before(root):
    picture(root / "val/documents/a_1.png")
    row = {"questionId": 1, "question": "?", "image": "documents/a_1.png", "answers": ["x"]}
    put(root / "val/val_v1.0.json", {"data": [row]})
    assert converted(root, "docvqa")[0].meta["kind"] == "all"


def test_chartqa_reads_both_of_its_files(root):
    picture(root / "ChartQA Dataset/val/png/166.png")
    for kind, label in (("human", "23"), ("augmented", "0.57")):
        rows = [{"imgname": "166.png", "query": f"How much, {kind}?", "label": label}]
        put(root / f"ChartQA Dataset/val/val_{kind}.json", rows)
    first, second = converted(root, "chartqa")
    assert (first.id, *asked(first)) == ("human-0", "How much, human?", "23")
    assert (second.id, second.meta["kind"], second.meta["metric"]) == ("augmented-0", "augmented", "relaxed")


def pope(
    root, line='{"question_id": 1, "image": "COCO_val2014_000000310196.jpg", "text": "Is there a dog?", "label": "no"}'
):
    picture(root / "val2014/COCO_val2014_000000310196.jpg")
    for kind in ("random", "popular"):
        put(root / f"output/coco/coco_pope_{kind}.json", line + "\n")
    return root / "output/coco/coco_pope_random.json"


def test_pope_reads_all_its_files(root):
    pope(root)
    examples = converted(root, "pope", split="test")
    assert [(e.id, e.meta["kind"]) for e in examples] == [("random-1", "random"), ("popular-1", "popular")]
    assert asked(examples[0]) == ("Is there a dog?", "no") and examples[0].meta["metric"] == "pope"


def refcoco(root, **ref):
    picture(root / "images/mscoco/images/train2014/COCO_train2014_000000581857.jpg")
    name = "COCO_train2014_000000581857.jpg"
    images = [{"id": 581857, "file_name": name, "width": 64, "height": 48}]
    box = {"id": 7, "image_id": 581857, "bbox": [8.0, 12.0, 32.0, 24.0]}
    put(root / "refcoco/instances.json", {"images": images, "annotations": [box]})
    sentences = [
        {"sent_id": n, "sent": text, "raw": text, "tokens": text.split()} for n, text in ((0, "the lady"), (1, "her"))
    ]
    rows = [{"ref_id": 0, "ann_id": 7, "image_id": 581857, "split": split, "sentences": sentences, **ref}
            for split in ("train", "testA")]  # fmt: skip
    (root / "refcoco/refs(unc).p").write_bytes(pickle.dumps(rows, protocol=0))
    return root / "refcoco"


def test_refcoco_takes_the_split_out_of_its_one_file(root):
    first, second = converted(root, "refcoco", split="testA", source=refcoco(root))
    assert asked(first)[0].startswith("Where is the lady?") and asked(first)[1] == "[0.125, 0.250, 0.625, 0.750]"
    assert first.boxes[0].xyxy == (8, 12, 40, 36) and second.boxes[0].label == "her"
    assert first.meta["metric"] == "box_accuracy" and first.meta["size"] == [64, 48]


def test_a_pickle_that_would_run_something_is_not_read(root):
    folder = refcoco(root)
    (folder / "refs(unc).p").write_bytes(pickle.dumps(print))
    with pytest.raises(InputError, match=r"refs\(unc\)\.p is no pickle of plain data \(it asks for builtins\.print\)"):
        converted(root, "refcoco", split="testA", source=folder)


@pytest.mark.parametrize("task", ["captions", "instances"])
def test_coco_is_found_in_its_folder(root, task):
    picture(root / "val2017/000000000042.jpg")
    images = [{"id": 42, "file_name": "000000000042.jpg", "width": 64, "height": 48}]
    row = {"id": 1, "image_id": 42, "caption": "A dog.", "category_id": 18, "bbox": [1, 2, 10, 20]}
    put(root / f"annotations/{task}_val2017.json",
        {"images": images, "annotations": [row], "categories": [{"id": 18, "name": "dog"}]})  # fmt: skip
    layout = {"captions": "coco-captions", "instances": "coco-detection"}[task]
    (example,) = converted(root, layout)
    assert example.meta.get("metric") == ("cider" if task == "captions" else None)
    with pytest.raises(InputError, match=f"unknown split of {layout} in .*published 'tran'; known: val"):
        converted(root, layout, split="tran")


@pytest.mark.parametrize(
    ("make", "layout", "split", "message"),
    [
        (lambda root: gqa(root, question=None, qestion="?"), "gqa", "vall", "'vall'; did you mean 'val'"),
        (
            lambda root: textvqa(root, answers="nokia"),
            "textvqa",
            "val",
            r"TextVQA_0.5.1_val.json: data\[0\]: 'answers' is 'nokia'; it",
        ),
        (
            lambda root: textvqa(root, answers=[]),
            "textvqa",
            "val",
            r"data\[0\]: 'answers' is \[\]; it must be a list of texts",
        ),
        (
            lambda root: pope(root, '{"question_id": 1, "imge": "a.jpg"}'),
            "pope",
            "val",
            "random.json:1: lacks the field 'image'; did you mean 'imge'",
        ),
        (lambda root: pope(root, "{"), "pope", "val", "random.json:1: not JSON .*; POPE's files are JSON lines"),
        (
            lambda root: pope(root, '{"image": "a", "label": "maybe"}'),
            "pope",
            "val",
            "random.json:1: 'label' is 'maybe'; it must be yes or no",
        ),
        (
            lambda root: put(root / "val/val_human.json", [3]),
            "chartqa",
            "val",
            "no folder png by .*; say where the images are with --images",
        ),
        (lambda root: gqa(root, types=[1]), "gqa", "val", r"question 05451384: 'types' is \[1\]; it must be an object"),
        (lambda root: gqa(root, answer=None), "gqa", "val", "question 05451384: 'answer' is None; it must be a text"),
        (lambda root: pope(root, "\ufeff{"), "pope", "val", "random.json:1: not JSON .*; POPE's files are JSON lines"),
        (lambda root: pope(root, "[1]"), "pope", "val", "random.json:1: lacks the field 'image'"),
        (lambda root: root.mkdir(), "docvqa", "val", "holds no docvqa data; looked for val_v1.0_withQT.json"),
        (lambda root: root.mkdir(), "llava", "val", "is a folder; name the llava file in it"),
        (
            lambda root: put(root / "TextVQA_0.5.1_val.json", {"data": 3}).parent.joinpath("train_images").mkdir(),
            "textvqa",
            "val",
            "data is a int; it must be a list of objects",
        ),
    ],
)
def test_mistakes_name_file_place_and_field(root, make, layout, split, message):
    make(root)
    with pytest.raises(InputError, match=message):
        converted(root, layout, split=split)


def test_refcoco_mistakes(root):
    folder = refcoco(root, ann_id=9)
    with pytest.raises(InputError, match=r"row 1: annotation 9 on image 581857 is not in .*instances.json"):
        converted(root, "refcoco", split="testA", source=folder)
    with pytest.raises(InputError, match=r"unknown split in .*refs\(unc\)\.p 'testB'; did you mean 'testA'"):
        converted(root, "refcoco", split="testB", source=folder)
    instances = folder / "instances.json"
    refcoco(root)
    put(instances, instances.read_text().replace("[8.0, 12.0, 32.0, 24.0]", "[8.0, 12.0, 32.0]"))
    with pytest.raises(
        InputError, match=r"annotations\[0\] has bbox \[8.0, 12.0, 32.0\]; give left, top, width, height"
    ):
        converted(root, "refcoco", split="testA", source=folder)
    refcoco(root, sentences=None)
    with pytest.raises(InputError, match=r"row 1: sentences is a NoneType; it must be a list of objects"):
        converted(root, "refcoco", split="testA", source=folder)
    (folder / "refs(unc).p").write_bytes(b"K\x01}(K\x02s.")
    with pytest.raises(InputError, match=r"refs\(unc\)\.p is no pickle of plain data"):
        converted(root, "refcoco", split="testA", source=folder)


def test_refcoco_boxes_without_area_are_left_out_and_counted(root):
    folder = refcoco(root)
    file, row = folder / "instances.json", {"id": 8, "image_id": 581857, "bbox": [100, 5, 10, 5]}
    data = json.loads(file.read_text())
    put(file, {**data, "annotations": [*data["annotations"], row]})
    refs = pickle.loads((folder / "refs(unc).p").read_bytes())
    (folder / "refs(unc).p").write_bytes(pickle.dumps([*refs, {**refs[0], "ann_id": 8}], protocol=0))
    with pytest.warns(UserWarning, match=r"left out of .*instances.json: 1 boxes without area in their image"):
        assert len(converted(root, "refcoco", split="train", source=folder)) == 2


@pytest.mark.parametrize(("make", "layout"), [(textvqa, "textvqa"), (gqa, "gqa")])
def test_a_split_without_answers_and_an_empty_question_are_told(root, make, layout):
    place = make(root, question=" ")
    with pytest.raises(InputError, match="'question' is empty; give it words"):
        converted(root, layout)
    file = make(root)
    put(file, file.read_text().replace('"answer', '"was'))
    with pytest.raises(InputError, match=r"has no 'answers?', as in test splits, whose answers are not published"):
        converted(root, layout)
    file.unlink()
    make(root)
    next((root / "images" if layout == "gqa" else root / "train_images").iterdir()).unlink()
    with pytest.raises(InputError, match="which is not in its place; add it"):
        converted(root, layout)
    assert place == file
