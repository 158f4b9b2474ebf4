"""Chameleon against its reference: known answers, and freshly made random tiny models."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from foveal.core.errors import InputError
from foveal.front import load
from foveal.vision.vq import Vq
from foveal.weights.chameleon import image_words, renaming
from foveal.weights.files import read_checkpoint

IMAGE, CODES, FIRST, CELLS = 40, 24, 50, 16
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def words(codes=CODES, first=FIRST):
    """Names of image words as the reference spells them; their numbers run backwards."""
    letters = str.maketrans("0123456789", "ABCDEFGHIJ")
    return {f"IMGIMG{str(code).translate(letters)}Z": first + codes - 1 - code for code in range(codes)}


@pytest.mark.parametrize("name", ["chameleon", "chameleon_swin"])
def test_known_answers(known_answers, tmp_path, name):
    known = known_answers(name)
    (tmp_path / "config.json").write_text(json.dumps(known.config))
    save_file(known.weights, tmp_path / "model.safetensors")
    loaded = load(tmp_path)
    output = loaded(**known.inputs, output_hidden_states=True)
    valid = known.inputs["attention_mask"].bool()
    torch.testing.assert_close(output.logits[valid], known.outputs["logits"][valid], **TOLERANCE)
    for i, state in enumerate(output.hidden_states):
        torch.testing.assert_close(state[valid], known.outputs[f"hidden_states.{i}"][valid], **TOLERANCE)
    tokenizer, codes = loaded.model.vision, known.outputs["image_tokens"]
    states = tokenizer.states(known.inputs["pixel_values"]).permute(0, 3, 1, 2)
    torch.testing.assert_close(states, known.outputs["vq_pre_quant"], **TOLERANCE)
    assert torch.equal(tokenizer.encode(known.inputs["pixel_values"]).flatten(), codes)
    assert torch.equal(loaded.model.picture_words[codes].view(2, -1), known.outputs["bpe_tokens"].long())


def reference(seed, **settings):
    """A random tiny Chameleon of transformers."""
    import transformers as hf

    torch.manual_seed(seed)
    vq = {"embed_dim": 8, "num_embeddings": CODES, "latent_channels": 8, "base_channels": 32, "num_res_blocks": 1}
    vq |= {"resolution": 8, "channel_multiplier": [1, 2], "attn_resolutions": [4], **settings.pop("vq", {})}
    config = hf.ChameleonConfig(
        vocab_size=80, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=128, vocabulary_map={"<image>": IMAGE, **words()}, vq_config=vq, pad_token_id=0,
        **{"num_key_value_heads": 2, **settings},
    )  # fmt: skip
    model = hf.ChameleonForConditionalGeneration(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.3 if weight.ndim > 1 else 0.1).add_(1.0 if weight.ndim == 1 else 0.0)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    return model


def inputs(images_by_row, *, left, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for count in images_by_row:
        row = torch.randint(3, 40, (4,), generator=generator).tolist()
        for _ in range(count):
            row += [IMAGE] * CELLS + torch.randint(3, 40, (3,), generator=generator).tolist()
        rows.append(row)
    width = max(map(len, rows))
    pads = [[0] * (width - len(row)) for row in rows]
    ids = torch.tensor([pad + row if left else row + pad for pad, row in zip(pads, rows, strict=True)])
    pixels = torch.rand(sum(images_by_row), 3, 8, 8, generator=generator) * 2 - 1
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "pixel_values": pixels}


CASES = [
    {},
    {"swin_norm": True, "attention_bias": True},
    {"tie_word_embeddings": True, "num_key_value_heads": 4, "mlp_bias": True},
    {
        "vq": {"attn_type": "none", "attn_resolutions": None},
        "rope_parameters": {"rope_type": "default", "rope_theta": 50.0},
    },
]


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("case", range(len(CASES)))
def test_equals_transformers(tmp_path, case, left):
    theirs = reference(case, **dict(CASES[case]))
    theirs.save_pretrained(tmp_path)
    ours = load(tmp_path)
    given = inputs([1, 2, 0], left=left)
    real = given["attention_mask"].bool()
    led = torch.cat([torch.zeros_like(real[:, :1]), real[:, :-1]], dim=1)  # what padding predicts is undefined
    labels = torch.where(real & led & (given["input_ids"] != IMAGE), given["input_ids"], -100)
    with torch.no_grad():
        expected, output = theirs(**given, labels=labels), ours(**given, labels=labels)
    torch.testing.assert_close(output.logits[real], expected.logits[real], **TOLERANCE)
    assert (output.logits[..., FIRST : FIRST + CODES] == torch.finfo(torch.float32).min).all()
    torch.testing.assert_close(output.loss, expected.loss, **TOLERANCE)
    if left:
        new = theirs.generate(**given, max_new_tokens=12, do_sample=False)[:, given["input_ids"].shape[1] :]
        assert torch.equal(ours.generate(**given, max_new_tokens=12), new)


def test_text_never_holds_image_words(tmp_path):
    theirs = reference(7)
    with torch.no_grad():
        theirs.lm_head.weight[FIRST : FIRST + CODES] *= 50  # what is masked would win otherwise
    theirs.save_pretrained(tmp_path)
    ours, given = load(tmp_path), inputs([1, 1], left=True)
    new = ours.generate(**given, max_new_tokens=12)
    raw = ours.model(ours.batch(**given)).logits.argmax(-1)
    assert ((raw >= FIRST) & (raw < FIRST + CODES)).any() and not ((new >= FIRST) & (new < FIRST + CODES)).any()


def test_written_back_and_as_a_run_it_is_the_same(tmp_path):
    import transformers as hf

    theirs = reference(2, swin_norm=True)
    theirs.save_pretrained(tmp_path / "there")
    ours, given = load(tmp_path / "there"), inputs([1], left=True)
    ours.save_pretrained(tmp_path / "back")
    again = hf.ChameleonForConditionalGeneration.from_pretrained(tmp_path / "back")
    for name, weight in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name
    ours.save(tmp_path / "run")
    assert torch.equal(load(tmp_path / "run")(**given).logits, ours(**given).logits)


@pytest.fixture
def talking(tmp_path):
    """A checkpoint with the files of its processor, and with weights that make pixels of codes as older ones had."""
    import transformers as hf
    from tokenizers import Tokenizer, models, pre_tokenizers

    theirs = reference(8)
    special = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "<racm3:break>": 4, "<eoss>": 5, "<reserved08706>": 6}
    special |= {"<image>": IMAGE}
    plain = {f"w{number}": number for number in range(7, FIRST) if number != IMAGE}
    tokenizer = Tokenizer(models.WordLevel({**special, **plain, **words()}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(special))
    named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "sep_token": "<reserved08706>"}
    fast = hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)
    size = {"size": {"shortest_edge": 8}, "crop_size": {"height": 8, "width": 8}}
    images = hf.models.chameleon.image_processing_pil_chameleon.ChameleonImageProcessorPil(**size)
    theirs.config.vocabulary_map = {**special, **words()}
    theirs.save_pretrained(tmp_path)
    hf.ChameleonProcessor(images, fast, image_seq_length=CELLS).save_pretrained(tmp_path)
    return theirs, hf.ChameleonProcessor(images, fast, image_seq_length=CELLS), tmp_path


def test_it_is_asked_in_words_as_the_reference_is(talking):
    theirs, process, folder = talking
    ours, picture = load(folder), Image.new("RGB", (12, 9), (200, 30, 90))
    given = process(images=picture, text="<image>w9 w12", return_tensors="pt")
    batch = ours.processor.prompt([(picture, "<image>w9 w12")], plan=ours.model.plan)
    assert torch.equal(torch.where(batch.image_slot >= 0, IMAGE, batch.input_ids), given["input_ids"])
    torch.testing.assert_close(batch.visual.values, given["pixel_values"], atol=1e-5, rtol=0)
    new = theirs.generate(**given, max_new_tokens=6, do_sample=False)[0, given["input_ids"].shape[1] :]
    assert ours.answer(picture, "<image>w9 w12", max_new_tokens=6).token_ids == tuple(new.tolist())


def test_it_draws_where_the_checkpoint_holds_the_decoder(talking):
    _, _, folder = talking
    with pytest.raises(InputError, match="no decoder that makes pixels"):
        load(folder).draw(["w9 w12"])
    donor = Vq(codes=CODES, width=8, latent=8, base=32, multiples=(1, 2), blocks=1, resolution=8, looks=(4,))
    rules = renaming(json.loads((folder / "config.json").read_text()))
    decoder = {f"vision.{name}": weight for name, weight in donor.state_dict().items() if name.startswith("decoder.")}
    named = rules.to_theirs(decoder)
    assert {"model.vqmodel.decoder.up.1.upsample.conv.weight", "model.vqmodel.decoder.up.0.block.1.conv1.bias"} <= {
        *named
    }
    save_file({**read_checkpoint(folder), **named}, folder / "model.safetensors")
    ours = load(folder)
    (picture,) = ours.draw(["w9 w12"])
    assert picture.size == (8, 8)
    for name, weight in decoder.items():
        assert torch.equal(ours.model.state_dict()[name], weight)


def test_the_image_word_of_each_code():
    assert image_words({"a": 1, **words(12)}) == tuple(range(FIRST + 11, FIRST - 1, -1))
    for wrong in ({}, {"a": 1}, {"IMGIMGBZ": 3}, {"IMGIMGAZ": 3, "IMGIMGAAZ": 4}):
        with pytest.raises(InputError, match="vocabulary_map has"):
            image_words(wrong)


def test_wrong_input_is_told(tmp_path):
    theirs = reference(4)
    theirs.save_pretrained(tmp_path)
    given = inputs([2], left=True)
    with pytest.raises(InputError, match=f"{2 * CELLS} image tokens in input_ids but 1 images bring {CELLS}"):
        load(tmp_path)(**{**given, "pixel_values": given["pixel_values"][:1]})
    config = json.loads((tmp_path / "config.json").read_text())
    config["vocabulary_map"] = {"<image>": IMAGE, **words(CODES - 1)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="23 image words but vq_config 24 codes"):
        load(tmp_path)
