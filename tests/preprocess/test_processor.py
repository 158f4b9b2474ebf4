import pickle
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from foveal.core.config import parse
from foveal.core.errors import InputError
from foveal.core.example import Example
from foveal.core.types import IGNORE, Layout, Pixels, VisualTokens
from foveal.fusion.prefix import Prefix
from foveal.language.decoder import Decoder
from foveal.preprocess.processor import Processor, ProcessorConfig

TEMPLATES = ["plain", "chatml", "qa", "vicuna"]
PADDINGS = st.sampled_from(["left", "right"])
TEXT = st.lists(st.sampled_from(["what", "cats", "red apple", "dog", "is", "2", "yes", "top left"]), max_size=5)
WORDS = TEXT.map(" ".join).filter(bool)


def ragged(sizes):
    """Another count for every image, as a plan of native resolution makes it."""
    counts = tuple(1 + place % 4 for place in range(len(sizes)))
    return Layout(counts=counts, grids=(None,) * len(counts))


@st.composite
def conversations(
    draw,
):
    """Messages with images anywhere in what the user says."""
    images, messages = 0, []
    for _ in range(draw(st.integers(1, 2))):
        content = []
        for _ in range(draw(st.integers(1, 4))):
            if draw(st.booleans()):
                content.append({"type": "image"})
                images += 1
            else:
                content.append({"type": "text", "text": draw(WORDS)})
        messages.append({"role": "user", "content": content})
        messages.append({"role": "assistant", "content": draw(WORDS)})
    name = draw(st.integers())
    return {"id": str(name), "messages": tuple(messages), "images": tuple(f"{name}-{i}" for i in range(images))}


def built(plain):
    """Examples are made outside of strategies: what checks their types draws random numbers of its own."""
    return [built(entry) for entry in plain] if isinstance(plain, list) else Example(**plain)


def seen(images):
    return Pixels.whole(torch.zeros(len(images), 3, 8, 8))


def check_slots(batch, examples):
    """Every image's slots stand once, in order, in its row; everything else is text."""
    counts = ragged([None] * sum(len(e.images) for e in examples)).counts
    image = start = 0
    for row, example in enumerate(examples):
        mine = counts[image : image + len(example.images)]
        found = batch.image_slot[row][batch.image_slot[row] >= 0].tolist()
        assert found == list(range(start, start + sum(mine)))
        assert batch.owner[image : image + len(mine)].tolist() == [row] * len(mine)
        image, start = image + len(mine), start + sum(mine)
    assert (batch.image_slot[~batch.valid] == -1).all()


@settings(deadline=None)
@given(
    examples=st.lists(conversations(), min_size=1, max_size=3),
    template=st.sampled_from(TEMPLATES),
    order=st.sampled_from(["as_given", "prefix", "suffix"]),
    padding=PADDINGS,
)
def test_slots_are_the_plans_and_labels_the_answers(processor, examples, template, order, padding):
    made, examples = processor(template, order=order), built(examples)
    batch = made.training(examples, plan=ragged, padding=padding, visual=seen)
    check_slots(batch, examples)
    for row, example in enumerate(examples):
        answers = [m["content"] for m in example.messages if m["role"] == "assistant"]
        labelled = batch.labels[row] != IGNORE
        assert torch.equal(batch.labels[row][labelled], batch.input_ids[row][labelled])
        ends = labelled & torch.isin(batch.labels[row], torch.tensor(made.stop_ids))
        assert ends.sum() == len(answers)
        starts = [0, *(ends.nonzero()[:, 0] + 1).tolist()]
        said = [made.text(batch.labels[row, a:b][labelled[a:b]]) for a, b in pairwise(starts)]
        assert said == answers
        first = labelled.nonzero()[0, 0]
        assert batch.prompt[row, :first].equal(batch.valid[row, :first])
        assert not batch.prompt[row, first:].any()


@settings(deadline=None)
@given(
    examples=st.lists(conversations(), min_size=1, max_size=3), template=st.sampled_from(TEMPLATES), padding=PADDINGS
)
def test_a_prompt_is_the_beginning_of_its_training_row(processor, examples, template, padding):
    made, examples = processor(template), built(examples)
    asked = made.prompt(examples, plan=ragged, padding=padding, visual=seen)
    check_slots(asked, examples)
    assert asked.labels is None
    assert asked.full == bool(asked.valid.all())
    if padding == "left":
        assert asked.valid[:, -1].all()
    told = made.training(examples, plan=ragged, visual=seen)
    for row in range(len(examples)):
        ids = asked.input_ids[row][asked.valid[row]]
        assert torch.equal(ids, told.input_ids[row, : len(ids)])
        assert torch.equal(asked.prompt[row][asked.valid[row]], told.prompt[row, : len(ids)])
        last = told.labels[row].ne(IGNORE).nonzero()[-1, 0]
        assert told.labels[row, len(ids) : last + 1].ne(IGNORE).all()


def features(images):
    """Deterministic features of named images, two tokens each."""
    rows = [torch.randn(2, 16, generator=torch.Generator().manual_seed(hash(i) % 10**6)).double() for i in images]
    layout = Layout.of_grids([(1, 2)] * len(images))
    return VisualTokens.on_layout(torch.cat(rows) if rows else torch.zeros(0, 16), layout)


def two(sizes):
    return Layout.of_grids([(1, 2)] * len(sizes))


@pytest.fixture(scope="module")
def decoder():
    torch.manual_seed(0)
    return Decoder(vocabulary=64, width=16, depth=2, heads=2, deviation=0.3).double()


@torch.no_grad()
def total_loss(decoder, batch):
    stream = Prefix(width=16, depth=2).at_input(decoder.open(batch), batch.visual)
    for layer in decoder.layers:
        stream = layer(stream)
    logits = decoder.norm(stream.hidden)[:, :-1] @ decoder.embedding.weight.T
    wanted = batch.labels[:, 1:]
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), wanted.flatten(), ignore_index=IGNORE, reduction="sum"
    )
    return loss.item(), int((wanted != IGNORE).sum())


@st.composite
def groups(draw):
    """Groups of questions on the same images."""
    made = []
    for number in range(draw(st.integers(1, 3))):
        images = tuple(f"{number}-{i}" for i in range(draw(st.integers(0, 2))))
        marks, suffix = [{"type": "image"} for _ in images], draw(st.integers(0, 2)) == 0
        group = []
        for _ in range(draw(st.integers(1, 3))):
            content = [*marks, {"type": "text", "text": draw(WORDS)}]
            content = content[::-1] if suffix else content
            messages = ({"role": "user", "content": content}, {"role": "assistant", "content": draw(WORDS)})
            group.append({"id": "x", "messages": messages, "images": images})
        made.append(group)
    return made


@settings(deadline=None, max_examples=30)
@given(groups=groups(), length=st.integers(32, 80), padding=PADDINGS, mutual=st.booleans())
def test_packed_and_branched_rows_have_the_loss_of_rows_alone(processor, decoder, groups, length, padding, mutual):
    made, groups = processor("plain", mutual=mutual), built(groups)
    flat = [example for group in groups for example in group]
    alone = [total_loss(decoder, made.training([one], plan=two, visual=features)) for one in flat]
    loss, count = sum(entry[0] for entry in alone), sum(entry[1] for entry in alone)
    for batch in (
        made.training(flat, plan=two, visual=features, padding=padding),
        made.training(groups, plan=two, visual=features, padding=padding),
        made.training(flat, plan=two, visual=features, padding=padding, length=length),
        made.training(groups, plan=two, visual=features, padding=padding, length=length),
    ):
        packed = total_loss(decoder, batch)
        assert packed[1] == count
        assert packed[0] == pytest.approx(loss, rel=1e-9)


@pytest.mark.parametrize("order", ["prefix", "suffix"])
@pytest.mark.parametrize("mutual", [False, True])
def test_a_fan_has_the_loss_of_rows_alone_wherever_its_images_are(processor, decoder, example, order, mutual):
    made = processor("plain", order=order, mutual=mutual)
    group = [example("what is there?", "cats", pictures=["one"]), example("what cats?", "2", pictures=["one"])]
    batch = made.training([group, group], plan=two, visual=features)
    alone = [total_loss(decoder, made.training([one], plan=two, visual=features)) for one in group]
    assert total_loss(decoder, batch)[0] == pytest.approx(2 * sum(loss for loss, _ in alone), rel=1e-9)
    assert (batch.fan is None) == (order == "suffix" and mutual)


def test_trunks_are_shared_and_prompts_marked_in_each_branch(processor, example):
    group = [example("what is there?", "cats"), example("how many cats?", "2")]
    group = [Example(id=e.id, messages=e.messages, images=("one",)) for e in group]
    batch = processor("plain").training([group, group], plan=ragged, visual=seen)
    assert batch.image_slot.max() == 2
    assert (batch.image_slot >= 0).sum() == 1 + 2
    assert batch.branch.unique().tolist() == [0, 1, 2]
    labelled = batch.labels != IGNORE
    assert not (labelled & batch.prompt).any()
    assert torch.equal(batch.prompt | labelled, batch.valid)


def test_rows_that_share_an_image_can_see_it_once(processor, example, plan):
    red = Image.new("RGB", (9, 9), "red")
    rows = [example("what?", pictures=[red]), example("cats?", pictures=[red]), (None, "dog?")]
    made = processor("plain")
    once = made.prompt(rows, plan=plan(), shared=True)
    each = made.prompt(rows, plan=plan())
    assert once.visual.values.shape[0] == 1
    assert each.visual.values.shape[0] == 2
    assert once.owner.tolist() == [0]
    assert torch.equal(
        once.image_slot.clamp(min=-1, max=3), torch.where(each.image_slot >= 4, each.image_slot - 4, each.image_slot)
    )


def test_text_alone_has_no_picture(processor, plan):
    batch = processor("chatml").prompt([(None, "Hello"), ([], "Hello")], plan=plan())
    assert batch.visual is None
    assert batch.full
    assert batch.owner.shape == (0,)
    assert processor("chatml").text(batch.input_ids[0]).startswith("user\nHello")


def test_pictures_are_opened_or_taken_as_given(processor, plan, example):
    made, asked = processor("plain"), example("what?", images=2)
    assert made.prompt([asked], plan=plan()).visual.values.shape == (2, 3, 8, 8)
    ready = features(["a", "b"])
    assert made.prompt([asked], plan=plan(), visual=lambda images: ready).visual is ready
    with pytest.raises(InputError, match="features of 1 images for a batch of 2"):
        made.prompt([asked], plan=plan(), visual=lambda images: features(["a"]))
    with pytest.raises(InputError, match=r"none\.png: there is no such image file"):
        made.prompt([("none.png", "what?")], plan=plan())
    named = []
    made.training(
        [example("what?", "cats", pictures=["x.png", "y.png"])], plan=plan(), visual=lambda i: named.extend(i)
    )
    assert named == ["x.png", "y.png"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(["a", "b"], "<image> <image> <image>")], "3 <image> markers in row 1 but 2 images; give one image a marker"),
        ([(None, "hi"), (None, "is <image> red?")], "1 <image> markers in row 2 but 0 images"),
        ([Example(id="e1", messages=({"role": "assistant", "content": "a"},))], "example 'e1' asks nothing"),
    ],
)
def test_questions_that_cannot_be_asked(processor, plan, rows, message):
    with pytest.raises(InputError, match=message):
        processor("plain").prompt(rows, plan=plan())


def test_a_prompt_longer_than_the_context(processor, plan, example):
    made, asked = processor("plain", context=10), example("what is there?", images=1)
    assert made.prompt([asked], plan=plan(1, 3)).input_ids.shape == (1, 9)
    with pytest.raises(
        InputError, match=r"has 14 tokens .8 of them of images., but the context holds 10; ask in fewer"
    ):
        made.prompt([asked], plan=plan(2, 4))
    with pytest.raises(
        InputError, match=r"row 1 has 9 tokens .3 of them of images. and 5 for the answer, but the cont"
    ):
        made.prompt([(asked.images, "what is there?")], plan=plan(1, 3), room=5)


def test_training_text_is_cut_only_when_asked_and_images_never(processor, plan, example):
    long = example("what is there?", "cats cats cats cats")
    with pytest.raises(
        InputError, match=r"'e' has 15 tokens .4 of them of images., but 12 fit; raise .* or set truncate"
    ):
        processor("plain", context=12).training([long], plan=plan())
    made = processor("plain", context=12, truncate=True)
    batch = made.training([long, example("what?", "cats")], plan=plan())
    assert batch.input_ids.shape == (2, 12)
    assert (batch.labels[0] != IGNORE).sum() == 2
    assert made.truncated == 1
    made.training([long], plan=plan(), length=11)
    assert made.truncated == 2
    cut = r"has 26 tokens for 12; cutting it would leave 8 of 16 tokens of its 2 images, and images are not cut"
    with pytest.raises(InputError, match=cut):
        made.training([example("what is there?", "cats cats cats", images=2)], plan=plan(2, 4))


def test_a_group_is_about_the_same_images(processor, plan, example):
    with pytest.raises(InputError, match="must be about the same images; this one holds: example 'a', example 'b'"):
        processor("plain").training([[example("q", "a", name="a"), example("q", "a", name="b")]], plan=plan())


def test_cells_name_what_stands_at_each_visual_token(processor, plan, example):
    one = example("what?", "cats", boxes=[("red apple", (0.0, 0.0, 6.0, 5.0)), ("dog", (6.0, 5.0, 12.0, 10.0))])
    two_images = example("what?", "yes", images=2)
    made = processor("plain")
    apple, dog = made.tokenizer.convert_tokens_to_ids(["red apple", "dog"])
    cells = made.training([one, two_images], plan=plan(), cells=True).targets["cells"]
    assert cells.tolist() == [apple, IGNORE, IGNORE, dog] + [IGNORE] * 8
    ground = made.tokenizer.convert_tokens_to_ids("no")
    grouped = processor("plain", background="no").training([[one, one]], plan=plan(), cells=True)
    assert grouped.targets["cells"].tolist() == [apple, ground, ground, dog]
    assert made.training([one], plan=plan()).targets == {}
    assert made.training([example("a", "b", images=0)], plan=plan(), cells=True).targets["cells"].shape == (0,)
    with pytest.raises(InputError, match="per-cell labels need visual tokens on a grid"):
        made.training([one], plan=ragged, cells=True)


def test_a_label_of_many_tokens_gives_its_first(processor, plan, example):
    made = processor("chatml")
    one = example("what?", "cats", boxes=[("there are cats", (0.0, 0.0, 12.0, 10.0))])
    cells = made.training([one], plan=plan(), cells=True).targets["cells"]
    assert cells.tolist() == [made.tokenizer.encode("there are cats")[0]] * 4


def test_cells_find_their_size_without_opening_the_picture(processor, plan, example, tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (12, 10)).save(path)
    one = example("what?", "cats", pictures=[Path(path)], boxes=[("dog", (6.0, 5.0, 12.0, 10.0))])
    batch = processor("plain").training([one], plan=plan(), cells=True, visual=seen)
    assert (batch.targets["cells"] != IGNORE).tolist() == [False, False, False, True]


def test_what_ends_an_answer(processor):
    assert processor("plain").stop_ids == (processor("plain").tokenizer.eos_token_id,)
    assert processor("vicuna").stop_ids == (processor("vicuna").tokenizer.eos_token_id,)
    assert processor("qa").stop_ids == (processor("qa").tokenizer.eos_token_id,)


def test_ids_become_words(processor):
    made = processor("plain")
    ids = made.tokenizer("yes, the red apple.<eos>")["input_ids"]
    assert (
        made.text(ids) == made.text(torch.tensor(ids)) == "yes, the red apple."
        or "the" not in made.tokenizer.get_vocab()
    )


def test_an_encoded_example_collates_as_the_example_does(processor, plan, example):
    made, one = processor("vicuna"), example("What is there?", "yes", "How many?", "12")
    a, b = made.training([one], plan=plan()), made.training([made.encode(one)], plan=plan())
    assert torch.equal(a.input_ids, b.input_ids)
    assert torch.equal(a.labels, b.labels)


def test_it_travels_to_worker_processes(processor, plan, example):
    made = pickle.loads(pickle.dumps(processor("plain")))
    one = example("what?", "cats")
    assert torch.equal(
        made.training([one], plan=plan()).input_ids, processor("plain").training([one], plan=plan()).input_ids
    )


def test_templates_by_name_by_fields_and_unknown(processor, tokenizers):
    own = {"user": ["Q", "\n"], "assistant": ["A", "{eos}"]}
    with pytest.raises(InputError, match="unknown template 'chatm'; did you mean 'chatml'"):
        Processor(tokenizer=tokenizers["plain"], config=ProcessorConfig(template="chatm"))
    config = parse(ProcessorConfig, {"template": own}, where="processor")
    asked = Processor(tokenizer=tokenizers["chatml"], config=config).encode(
        Example(id="1", messages=({"role": "user", "content": "hi"},))
    )
    assert tokenizers["chatml"].decode(asked.ids) == "Qhi\n"


def test_tokens_of_one_text_alone_equal_those_in_any_batch(processor, plan, example):
    made = processor("chatml")
    rows = [example("what?", "cats"), example("how many cats are there?", "2", images=2)]
    both = made.training(rows, plan=plan())
    for row, one in enumerate(rows):
        alone = made.training([one], plan=plan())
        width = alone.input_ids.shape[1]
        assert torch.equal(both.input_ids[row, :width], alone.input_ids[0])
        assert not both.valid[row, width:].any()


def test_left_padding_of_training_rows(processor, plan, example):
    batch = processor("plain").training(
        [example("a", "b"), example("what is there?", "yes")], plan=plan(), padding="left"
    )
    assert batch.valid[:, -1].all()
    assert batch.labels[0, -1] == batch.input_ids[0, -1] == 2
