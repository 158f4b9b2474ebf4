import pytest

from foveal.core.errors import InputError
from foveal.core.example import Example
from foveal.preprocess.chat import TEMPLATES, Marker, TokenizersOwn, Turn, exchange, question, turns

LLAVA = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' ' }}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe brief.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
THINKING = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' + message['content'] + '<|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>user\n' + message['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def user(*parts):
    return {"role": "user", "content": [{"type": "image"} if p is None else {"type": "text", "text": p} for p in parts]}


def ask(*parts, images=1):
    return Example(id="7", messages=(user(*parts),), images=("a",) * images)


def parts(example, **settings):
    return turns(example, marker="<image>", **settings)[0].parts


def spans(render, *said, reply=False):
    roles = ("user", "assistant")
    made = [Turn(role=roles[i % 2], parts=part if isinstance(part, tuple) else (part,)) for i, part in enumerate(said)]
    return [(span.text, span.answer) for span in render(made, marker="<image>", reply=reply)]


def test_image_parts_and_literal_markers_place_images():
    assert parts(ask("see ", None, " and say")) == ("see ", Marker(), " and say")
    assert parts(ask("see <image> and <image>", images=2)) == ("see ", Marker(bare=True), " and ", Marker(bare=True))
    assert parts(Example(id="1", messages=({"role": "user", "content": "hi"},))) == ("hi",)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (
            ask("a", None, None, None, images=2),
            "3 <image> markers in example '7' but 2 images; give one image a marker",
        ),
        (ask("a", images=1), "0 <image> markers in example '7' but 1 images"),
        (ask("what is <image>?", images=0), "1 <image> markers in example '7' but 0 images"),
        (ask(None, "what is <image>?"), "2 <image> markers in example '7' but 1 images; 1 of them in its text"),
        (ask(None, "what is <image>?", images=2), "2 <image> markers .* but 2 images; 1 of them in its text"),
        (Example(id="7", messages=()), "example '7' has no messages; give at least one question"),
        (Example(id="7", messages=({"role": "bot", "content": ""},)), "role 'bot'; use user, assistant or system"),
        (Example(id="7", messages=({"role": "user", "content": 3},)), "content of a user message is 3; give text"),
        (Example(id="7", messages=({"role": "user", "content": [{"type": "x"}]},)), "content part {'type': 'x'}; use"),
        (Example(id="7", messages=({"role": "user", "content": [{"type": "text"}]},)), "content part {'type': 'text'}"),
    ],
)
def test_what_does_not_add_up_is_told(example, message):
    with pytest.raises(InputError, match=message):
        turns(example, marker="<image>")


def test_a_marker_in_an_answer_is_no_image():
    said = Example(id="1", messages=(user("hi"), {"role": "assistant", "content": "an <image>"}))
    with pytest.raises(InputError, match="1 <image> markers in example '1' but 0 images"):
        turns(said, marker="<image>")


def test_order_of_images():
    mixed = ask("first ", None, " then ", None, " what?", images=2)
    assert parts(mixed, order="prefix") == (Marker(), Marker(), "first ", " then ", " what?")
    assert parts(mixed, order="suffix") == ("first ", " then ", " what?", Marker(), Marker())
    assert parts(ask("<image>\nWhat?"), order="prefix") == (Marker(), "What?")
    assert parts(ask("<image>\nWhat?"), order="suffix") == ("What?", Marker())


def test_one_question_of_images_and_text():
    assert parts(question("a.png", "What?")) == (Marker(), "What?")
    assert parts(question(["a", "b"], "<image> or <image>?")) == (Marker(bare=True), " or ", Marker(bare=True), "?")
    assert question(None, "Hello").images == ()
    with pytest.raises(InputError, match="a question of type list; give one string"):
        question(None, ["what", "where"])
    with pytest.raises(InputError, match="the question is empty; write what you want to know"):
        question("a.png", " ")
    with pytest.raises(InputError, match="3 <image> markers in row 1 but 2 images; give one image a marker"):
        turns(question(["a", "b"], "<image><image><image>"), marker="<image>", where="row 1")


def test_vicuna_as_llava_has_it():
    vicuna = TEMPLATES["vicuna"].ending_with("</s>")
    asked = spans(vicuna, (Marker(), "What?"), reply=True)
    assert "".join(text for text, _ in asked) == "USER: <image>\nWhat? ASSISTANT:"
    told = spans(vicuna, (Marker(), "What?"), "A cat.", "Sure?", "Yes.")
    assert "".join(text for text, _ in told) == (
        "USER: <image>\nWhat? ASSISTANT: A cat.</s>USER: Sure? ASSISTANT: Yes.</s>"
    )
    assert [text for text, answer in told if answer] == [" A cat.</s>", " Yes.</s>"]


def test_images_stand_apart_from_words_but_where_the_writer_put_them():
    chatml = TEMPLATES["chatml"].ending_with("<|im_end|>")
    assert spans(chatml, ("What?", Marker()))[0][0] == "<|im_start|>user\nWhat?\n<image><|im_end|>\n"
    assert spans(chatml, (Marker(), Marker(), "What?"))[0][0].startswith("<|im_start|>user\n<image>\n<image>\nWhat?")
    assert "Is <image> red?" in spans(chatml, ("Is ", Marker(bare=True), " red?"))[0][0]


def test_an_unknown_role_has_no_place():
    with pytest.raises(InputError, match="unknown role 'usr'; did you mean 'user'"):
        TEMPLATES["plain"]([Turn(role="usr", parts=("a",))], marker="<image>", reply=False)


def own(tokenizer, template):
    tokenizer.chat_template = template
    return TokenizersOwn(tokenizer)


@pytest.fixture
def chatml(processor):
    from copy import deepcopy

    return deepcopy(processor("chatml").tokenizer)


@pytest.fixture
def vicuna(processor):
    from copy import deepcopy

    return deepcopy(processor("vicuna").tokenizer)


def test_a_tokenizers_own_template_marks_the_answers(chatml):
    told = spans(own(chatml, CHATML), (Marker(), "Hi"), "Yes", "More?", "No")
    assert "".join(text for text, _ in told) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<image>\nHi<|im_end|>\n"
        "<|im_start|>assistant\nYes<|im_end|>\n<|im_start|>user\nMore?<|im_end|>\n<|im_start|>assistant\nNo<|im_end|>\n"
    )
    assert [text for text, answer in told if answer] == ["Yes<|im_end|>", "No<|im_end|>"]
    asked = spans(own(chatml, CHATML), (Marker(), "Hi"), reply=True)
    assert "".join(t for t, _ in asked) == told[0][0]


def test_an_answer_begins_where_the_prompt_that_asks_for_it_ends(chatml, vicuna):
    told = spans(own(chatml, THINKING), "Hi", "Yes")
    assert told[1] == ("<think>\n\n</think>\n\nYes<|im_end|>", True)
    told = spans(own(vicuna, LLAVA), (Marker(), "Hi"), "Yes", "And?", "No")
    assert told[:2] == [("USER: <image>\nHi ASSISTANT:", False), (" Yes</s>", True)]
    assert told[2:4] == [(" USER: And? ASSISTANT:", False), (" No</s>", True)]


def test_literal_places_stay_in_a_template_of_parts(vicuna):
    asked = spans(own(vicuna, LLAVA), ("Is ", Marker(bare=True), " red?"), reply=True)
    assert asked == [("USER: Is <image> red? ASSISTANT:", False)]


@pytest.mark.parametrize(
    "answer",
    [
        "'A: ' + message['content'] + eos_token",
        "(message['content'] if message['content'] is string else '') + eos_token",
    ],
)
def test_answers_that_a_template_prints_as_text_alone_are_told_so(chatml, answer):
    template = (
        "{% for message in messages %}{% if message['role'] == 'user' %}{% for part in message['content'] %}"
        "{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}{% else %}{{ " + answer + " }}"
        "{% endif %}{% endfor %}"
    )
    told = spans(own(chatml, template), (Marker(), "Hi"), "Yes")
    assert [text for text, answer in told if answer] == [told[-1][0]] and "Yes" in told[-1][0]
    assert exchange(own(chatml, template), "<image>")[-1].text.endswith("b" + chatml.eos_token)


def test_a_template_without_a_place_for_answers_still_asks(chatml):
    render = own(chatml, "{{ messages[0]['content'] }}")
    assert exchange(render, "<image>") == [] and spans(render, "Hi", reply=True) == [("Hi", False)]


def test_of_several_templates_the_default_is_taken(chatml):
    assert spans(own(chatml, {"rag": "no", "default": "{{ messages[0]['content'] }}"}), "a") == [("a", False)]
    with pytest.raises(InputError, match=r"2 chat templates \(chat, rag\) and none is named default; name one"):
        own(chatml, {"chat": "x", "rag": "y"})


def test_templates_that_cannot_serve(chatml):
    chatml.chat_template = None
    with pytest.raises(InputError, match="no chat template; choose template: plain, qa, vicuna or chatml"):
        TokenizersOwn(chatml)
    with pytest.raises(InputError, match="drops an answer"):
        spans(own(chatml, "{{ messages[0]['content'] }}"), "a", "b")
    with pytest.raises(InputError, match="refuses the conversation: roles must alternate"):
        spans(own(chatml, "{{ raise_exception('roles must alternate') }}"), "a", "b")


@pytest.mark.parametrize("text", ["\udcff how many?", "what is \ud800"])
def test_half_a_character_is_no_question(text):
    with pytest.raises(InputError, match="holds half a character"):
        question(None, text)
