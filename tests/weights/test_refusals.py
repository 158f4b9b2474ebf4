"""What a checkpoint that cannot be read is told to be, and the way out."""

import json

import pytest

from foveal.core.errors import InputError
from foveal.front import load
from foveal.weights.refusals import check, instead

LLAVA = {"model_type": "llava", "text_config": {"model_type": "llama"}, "vision_config": {"hidden_size": 8}}


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"model_type": ["llava"]}, r"has model_type \['llava'\]; write one name there"),
        ({**LLAVA, "quantization_config": {"quant_method": "awq"}}, r"quantized weights \(awq\).*in full precision"),
        ({**LLAVA, "torch_dtype": "auto"}, "has torch_dtype 'auto', which is none of torch's; write float32"),
        ({**LLAVA, "dtype": "torch.float16"}, "has dtype 'torch.float16', which is none"),
        ({**LLAVA, "dtype": {"": "bfloat16", "text_config": "bf17"}}, "has dtype 'bf17', which is none"),
        ({**LLAVA, "image_token_index": None}, "has image_token_index None; write the number of a token"),
        ({**LLAVA, "image_token_id": "<image>"}, "has image_token_id '<image>'; write the number"),
        (
            {"model_type": "llava_mistral", "mm_projector_type": "mlp2x_gelu"},
            "LLaVA in the layout of its authors; .*-hf",
        ),
        ({"model_type": "ovis", "visual_tokenizer_config": {}}, "an Ovis in the layout of its authors; .*-hf"),
        ({"model_type": "qwen2_5_omni"}, "holds a 'qwen2_5_omni' model; Foveal loads llava, .*qwen2_vl"),
        ({"model_type": "qwen3_moe"}, "holds a 'qwen3_moe' model; Foveal loads llava"),
        ({**LLAVA, "text_config": {"model_type": "gemma"}}, "of kind 'gemma'; Foveal loads llama, mistral, .*smollm3$"),
        (
            {"model_type": "smolvlm", "text_config": {"model_type": "vllama3"}},
            "type for subconfig: vllama3; copy it again$",
        ),
        ({"model_type": "blip-2", "text_config": {"model_type": "t5"}}, "of kind 't5'; Foveal loads opt, llama"),
        ({**LLAVA, "text_config": {"model_type": "llama", "num_attention_heads": 0}}, "zero; copy it again$"),
    ],
)
def test_a_config_is_told_by_what_it_is(tmp_path, config, told):
    from safetensors.torch import save_file
    from torch import zeros

    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"a": zeros(1), "query_tokens": zeros(1, 32, 768)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=told) as error:
        load(tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


def test_what_can_be_read_is_let_through():
    check({**LLAVA, "torch_dtype": "float16", "quantization_config": None, "image_token_index": 9}, "here")
    check({**LLAVA, "dtype": {"": "bfloat16", "vision_config": "float32"}}, "here")


def test_an_adapter_is_told_by_its_base(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "llava-hf/llava-1.5-7b-hf"}))
    with pytest.raises(InputError, match=r"an adapter for llava-hf/llava-1.5-7b-hf and no model; merge it"):
        load(tmp_path)


def test_only_a_name_of_nothing_is_taken_for_another():
    assert instead("lama", ("llama", "opt")) == "did you mean 'llama'?"
    assert instead("gemma", ("gema", "opt")) == "Foveal loads gema, opt"
