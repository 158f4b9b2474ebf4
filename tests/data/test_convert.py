import json

import pytest
from PIL import Image

from foveal.cli._detection import annotations
from foveal.core.errors import InputError
from foveal.data.convert import convert, layouts, load
from foveal.data.converters import coco_detection
from foveal.data.format import read, said

COCO = {
    "images": [{"id": 42, "file_name": "000000000042.jpg", "width": 64, "height": 48},
               {"id": 43, "file_name": "000000000043.jpg", "width": 64, "height": 48}],
    "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
}  # fmt: skip


@pytest.fixture
def root(tmp_path):
    for folder, prefix in (("val2017", ""), ("val2014", "COCO_val2014_")):
        (tmp_path / folder).mkdir()
        for number in (42, 43):
            Image.new("RGB", (64, 48)).save(tmp_path / folder / f"{prefix}{number:012d}.jpg")
    (tmp_path / "annotations").mkdir()
    return tmp_path


def put(path, data):
    path.write_text(json.dumps(data))
    return path


def test_the_layouts_are_the_files_of_the_folder():
    assert {"llava", "coco-captions", "coco-detection", "vqav2"} <= set(layouts())


def llava(root, **changes):
    talk = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A dog."},
            {"from": "human", "value": "Sure?"}, {"from": "gpt", "value": "Yes."}]  # fmt: skip
    row = {"id": "000042", "image": "val2017/000000000042.jpg", "conversations": talk} | changes
    text = {"id": "text", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}
    return put(root / "llava.json", [row, text])


def test_llava(root):
    assert convert(llava(root), root / "out", "llava") == 2
    first, second = read(root / "out")
    assert said(first, "user") == ["What is it?", "Sure?"] and said(first, "assistant") == ["A dog.", "Yes."]
    assert [part["type"] for part in first.messages[0]["content"]] == ["image", "text"]
    assert first.images[0].samefile(root / "val2017" / "000000000042.jpg") and second.images == ()


def test_llava_keeps_markers_in_their_places(root):
    talk = [{"from": "human", "value": "First <image> then <image>"}, {"from": "gpt", "value": "Two."}]
    names = ["000000000042.jpg", "000000000043.jpg"]
    convert(llava(root, image=names, conversations=talk), root / "out", "llava", images=root / "val2017")
    assert [p["type"] for p in read(root / "out")[0].messages[0]["content"]] == ["text", "image", "text", "image"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": "gone.jpg"}, "example 000042: names the image .*gone.jpg"),
        ({"image": ["val2017/000000000042.jpg"] * 2}, "1 image markers but 2 images"),
        ({"conversations": [{"from": "bot", "value": "x"}]}, "row 0: unknown speaker 'bot'"),
        ({"image": 5}, "row 0: 'image' is 5; it must be a text or a list"),
        ({"image": [3]}, r"row 0: 'image' is \[3\]; it must be a list of texts, one at least"),
        ({"conversations": None}, "row 0: 'conversations' is None; it must be a list"),
        ({"conversations": [{"from": "gpt", "value": None}]}, "row 0: 'value' is None; it must be a text"),
        ({"conversations": [{"from": ["a"], "value": "x"}]}, r"row 0: 'from' is \['a'\]; it must be a text"),
        ({"conversations": [5]}, "row 0: lacks the field 'from'"),
        (
            {"conversations": [{"from": "gpt", "value": "<image>\ud800"}]},
            "example 000042: messages.* holds half a character",
        ),
        ({"conversations": [{"from": "gpt"}]}, "row 0: lacks the field 'value'; is this the layout that --from says?"),
    ],
)
def test_llava_mistakes(root, changes, message):
    with pytest.raises(InputError, match=message):
        convert(llava(root, **changes), root / "out", "llava")
    assert not list((root / "out").glob("*"))


def test_coco_captions(root):
    rows = [(9, 43, "A dog.\n"), (3, 42, "A man."), (4, 43, "Brown dog.")]
    captions = [{"id": number, "image_id": image, "caption": text} for number, image, text in rows]
    source = put(root / "annotations" / "captions_val2017.json", {**COCO, "annotations": captions})
    assert convert(source, root / "out", "coco-captions", split="val") == 3
    examples = read(root / "out", split="val")
    assert [(e.id, *said(e, "assistant")) for e in examples] == [("3", "A man."), ("9", "A dog."), ("4", "Brown dog.")]
    assert examples[1].images[0].samefile(root / "val2017" / "000000000043.jpg")


def test_coco_captions_that_are_none_are_left_out_and_counted(root):
    rows = [(9, 43, "A dog."), (3, 42, " \n"), (4, 44, "A cat.")]
    captions = [{"id": number, "image_id": image, "caption": text} for number, image, text in rows]
    source = put(root / "annotations" / "captions_val2017.json", {**COCO, "annotations": captions})
    with pytest.warns(UserWarning, match="json: 1 empty captions, 1 captions of images that are not there"):
        assert convert(source, root / "out", "coco-captions", split="val") == 1


def test_coco_detection(root):
    boxes = [{"image_id": 42, "category_id": 1, "bbox": [1, 2, 10, 20], "iscrowd": 0},
             {"image_id": 42, "category_id": 18, "bbox": [30.5, 10, 40, 30], "iscrowd": 0},
             {"image_id": 42, "category_id": 18, "bbox": [0, 0, 64, 48], "iscrowd": 1}]  # fmt: skip
    source = put(root / "annotations" / "instances_val2017.json", {**COCO, "annotations": boxes})
    assert convert(source, root / "out", "coco-detection") == 2
    example, empty = read(root / "out")
    assert said(empty, "assistant") == ["none"] and empty.boxes == () and example.meta["crowd"][0]["label"] == "dog"
    assert [(b.label, b.xyxy) for b in example.boxes] == [("dog", (30.5, 10, 64, 40)), ("person", (1, 2, 11, 22))]
    assert said(example, "assistant") == ["dog, person"]


def test_coco_detection_is_scored_as_the_published_file(root):
    counts = {"counts": [0, 480, 2592], "size": [48, 64]}
    crowd = {"bbox": [0, 0, 10, 48], "iscrowd": 1, "area": 480, "segmentation": counts, "category_id": 18}
    source = coco(root, (1, {"area": 150.5, "iscrowd": 0}), (2, crowd))
    convert(source, root / "out", "coco-detection")
    ours, there = annotations(read(root / "out"), ["person", "dog"]), coco_detection.annotations(load(source), source)
    assert len(ours["images"]) == len(there["images"]) == 2

    def told(data):
        names = {row["id"]: row["name"] for row in data["categories"]}
        rows = [{**row, "category_id": names[row["category_id"]], "image_id": 0} for row in data["annotations"]]
        return sorted(rows, key=lambda row: row["id"])

    assert told(ours) == told(there)
    (root / "out/train.jsonl").write_text((root / "out/train.jsonl").read_text().replace('"bbox":[0,0,10,48],', ""))
    with pytest.raises(InputError, match="'42': 'crowd' in its meta: lacks the field 'bbox'"):
        annotations(read(root / "out"))


def coco(root, *rows, **changes):
    rows = [{"id": number, "image_id": 42, "category_id": 1, "bbox": [1, 2, 10, 20], **row} for number, row in rows]
    return put(root / "annotations" / "instances_val2017.json", {**COCO, **changes, "annotations": rows})


def test_coco_boxes_that_are_none_are_left_out_and_counted(root):
    faults = ({"bbox": [1, 2, -5, 9]}, {"bbox": [70, 2, 5, 5]}, {"bbox": [1, -9, 5, 9]}, {"bbox": [1, 2, 0, 5]},
              {"image_id": 99}, {"bbox": [0, 0, 9, 9], "segmentation": {"counts": [1], "size": [48, 64]}})  # fmt: skip
    source = coco(root, (0, {"bbox": [-4, 40, 20, 20]}), *enumerate(faults, 1))
    told = "1 inverted boxes, 2 boxes outside their image, 1 boxes without area, 1 boxes of images .*, 1 masks that are"
    with pytest.warns(UserWarning, match=f"left out of .*instances_val2017.json: {told}"):
        assert convert(source, root / "out", "coco-detection") == 2
    example, _ = read(root / "out")
    assert [box.xyxy for box in example.boxes] == [(0, 40, 16, 48), (0, 0, 9, 9)]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"bbox": [1, 2, float("nan"), 4]}, r"annotation 7 has bbox \[1, 2, nan, 4\]; give left, top, width, height"),
        ({"bbox": [1, 2, 3]}, "annotation 7 has bbox"),
        ({"bbox": [True, 1, 1, 1]}, "annotation 7 has bbox"),
        ({"segmentation": [5]}, "annotation 7 has a segmentation that is no list of polygons"),
        ({"segmentation": [["a"] * 6]}, "annotation 7 has a polygon of 6 numbers; give x and y"),
        ({"keypoints": [1, 2, 2, 4]}, "annotation 7 has keypoints that are no list of x, y, v"),
        ({"area": "big"}, "annotation 7 has the area 'big'; give pixels"),
        ({"category_id": [1]}, r"annotation 7: 'category_id' is \[1\]; it must be a whole number or a text"),
        ({"image_id": [1]}, r"annotation 7: 'image_id' is \[1\]; it must be a whole number or a text"),
        ({"category_id": 5}, "annotation 7 is of category 5, which the file does not name"),
    ],
)
def test_coco_mistakes(root, row, said):
    with pytest.raises(InputError, match=said):
        convert(coco(root, (7, row)), root / "out", "coco-detection")


@pytest.mark.parametrize("layout", ["coco-captions", "coco-detection"])
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": None}, "images is a NoneType; it must be a list of objects"),
        ({"images": [3]}, r"images\[0\] is a int; it must be an object"),
        ({"images": {"a": 1}}, "images is a dict; it must be a list of objects"),
        (
            {"images": [{**COCO["images"][0], "width": None}]},
            r"images\[0\]: 'width' is None; it must be a number",
        ),
        ({"images": [{**COCO["images"][0], "height": 0}]}, r"images\[0\] has 'width' and 'height' \[64, 0\]; give"),
        ({"images": [{**COCO["images"][0], "file_name": 5}]}, r"images\[0\]: 'file_name' is 5; it must be a text"),
        ({"annotations": None}, "annotations is a NoneType; it must be a list of objects"),
        ({"annotations": [7]}, r"annotations\[0\] is a int; it must be an object"),
    ],
)
def test_coco_fields_of_other_kinds(root, layout, changes, said):
    name = "captions" if layout == "coco-captions" else "instances"
    source = put(root / "annotations" / f"{name}_val2017.json", {**COCO, "annotations": [], **changes})
    with pytest.raises(InputError, match=said):
        convert(source, root / "out", layout)


def test_coco_outlines_and_keypoints_come_along(root):
    polygon, points = [1, 2, 11, 2, 70, 22], [5, 6, 2, 0, 0, 0, 64.4, 9, 1]
    person, dog = COCO["categories"]
    named = [{**person, "keypoints": ["nose", "left eye", "right eye"]}, dog]
    source = coco(root, (1, {"segmentation": [polygon, [1, 1]], "keypoints": points}), (2, {"keypoints": [0] * 9}),
                  categories=named)  # fmt: skip
    convert(source, root / "out", "coco-detection")
    example, _ = read(root / "out")
    first, second = example.boxes
    assert first.segmentation == ((1, 2, 11, 2, 64, 22),)
    assert first.keypoints == ((5, 6, 2), (0, 0, 0), (64, 9, 1)) and second.keypoints == ()
    assert example.meta["keypoints"] == ["nose", "left eye", "right eye"]
    with pytest.raises(InputError, match="categories 'person' and 'dog' have different keypoints"):
        other = [named[0], {**dog, "keypoints": ["tail"]}]
        convert(coco(root, (1, {}), categories=other), root / "more", "coco-detection")


def vqa(root, answered=(1, 2)):
    questions = [{"question_id": n, "image_id": 44 - n, "question": f"Q{n}?"} for n in (1, 2)]
    rows = [{"question_id": n, "multiple_choice_answer": f"a{n}", "answer_type": "other", "question_type": "what",
             "answers": [{"answer": f"a{n}"}, {"answer": "b"}]} for n in answered]  # fmt: skip
    put(root / "v2_mscoco_val2014_annotations.json", {"annotations": rows})
    return put(root / "v2_OpenEnded_mscoco_val2014_questions.json", {"data_subtype": "val2014", "questions": questions})


def test_vqav2(root):
    assert convert(vqa(root), root / "out", "vqav2") == 2
    second, first = read(root / "out")
    assert (said(first, "user"), said(first, "assistant")) == (["Q1?"], ["a1"])
    assert first.meta["answers"] == ["a1", "b"] and first.meta["kind"] == "other"
    assert second.images[0].name == "COCO_val2014_000000000042.jpg"


@pytest.mark.parametrize(
    ("name", "field", "given", "said"),
    [
        ("questions", "image_id", "7", r"questions\[0\]: 'image_id' is '7'; it must be a whole number"),
        (
            "questions",
            "question",
            None,
            r"questions\[0\]: 'question' is None; it must be a text or a number",
        ),
        ("annotations", "answers", None, r"annotations\[0\]: answers is a NoneType; it must be a list of objects"),
        ("annotations", "answers", [1], r"annotations\[0\]: answers\[0\] is a int; it must be an object"),
    ],
)
def test_vqav2_fields_of_other_kinds(root, name, field, given, said):
    source = vqa(root)
    changed = source if name == "questions" else root / "v2_mscoco_val2014_annotations.json"
    data = json.loads(changed.read_text())
    data[name][0][field] = given
    put(changed, data)
    with pytest.raises(InputError, match=said):
        convert(source, root / "out", "vqav2")


def test_a_source_may_begin_with_a_byte_order_mark(root):
    source = llava(root)
    source.write_text(source.read_text(), encoding="utf-8-sig")
    assert convert(source, root / "out", "llava") == 2


def test_vqav2_mistakes(root):
    with pytest.raises(InputError, match="no answer to question 2"):
        convert(vqa(root, answered=(1,)), root / "out", "vqav2")
    (root / "v2_mscoco_val2014_annotations.json").unlink()
    with pytest.raises(InputError, match="needs its annotations v2_mscoco_val2014_annotations"):
        convert(root / "v2_OpenEnded_mscoco_val2014_questions.json", root / "out", "vqav2")
    with pytest.raises(InputError, match="is not a VQAv2 question file"):
        convert(llava(root), root / "out", "vqav2")


def test_images_are_copied_on_request(root):
    convert(llava(root), root / "out", "llava", copy=True)
    assert read(root / "out")[0].images == (root / "out" / "images" / "000000000042.jpg",)


def named(root, split, *names, **more):
    talk = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "x"}]
    source = put(root / f"{split}.json", [{"image": name, "conversations": talk} for name in names])
    convert(source, root / "out", "llava", split=split, copy=True, **more)
    return [example.images[0].read_text() for example in read(root / "out", split=split)]


def test_copies_of_another_split_stay_as_they_are(tmp_path):
    for name in ("a/x.png", "b/x.png", "c/y.png", "c/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    train = ["a/x.png", "b/x.png"]
    assert named(tmp_path, "train", *train) == train
    assert named(tmp_path, "val", "c/y.png", "c/x.png") == ["c/y.png", "c/x.png"]
    assert [example.images[0].read_text() for example in read(tmp_path / "out")] == train
    assert named(tmp_path, "train", *train, force=True) == train
    assert len(list((tmp_path / "out" / "images").iterdir())) == 4


def test_a_conversion_that_fails_leaves_no_copies(tmp_path):
    (tmp_path / "a.png").write_text("a")
    with pytest.raises(InputError, match=r"gone\.png"):
        named(tmp_path, "train", "a.png", "gone.png")
    assert not list((tmp_path / "out").iterdir())


def test_no_example_is_no_data_set(root):
    with pytest.raises(InputError, match=r"llava\.json holds no example to convert"):
        convert(put(root / "llava.json", []), root / "out", "llava")
    assert not list((root / "out").iterdir())


def test_what_is_wrong_before_anything_is_read(root):
    with pytest.raises(InputError, match="unknown layout 'lava'; did you mean 'llava'"):
        convert(llava(root), root / "out", "lava")
    with pytest.raises(InputError, match=r"no file at .*gone.json"):
        convert(root / "gone.json", root / "out", "llava")
    with pytest.raises(InputError, match="no folder of images at"):
        convert(llava(root), root / "out", "llava", images=root / "gone")
    with pytest.raises(InputError, match="lacks the field 'images'"):
        convert(put(root / "annotations" / "captions_val2017.json", {}), root / "out", "coco-captions")
    with pytest.raises(InputError, match="no folder train2017 beside"):
        convert(put(root / "annotations" / "captions_train2017.json", COCO), root / "out", "coco-captions")
    (root / "text.json").write_text("hello")
    with pytest.raises(InputError, match="is not JSON"):
        convert(root / "text.json", root / "out", "llava")
    with pytest.raises(InputError, match="holds a dict; LLaVA data are a list"):
        convert(put(root / "dict.json", {}), root / "out", "llava")


def test_an_older_split_is_kept_without_force(root):
    convert(llava(root), root / "out", "llava")
    with pytest.raises(InputError, match="jsonl exists; choose another place or split"):
        convert(llava(root), root / "out", "llava")
    assert convert(llava(root), root / "out", "llava", force=True) == 2
