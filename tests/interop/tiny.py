"""Random tiny models of transformers of every family that `foveal.compress` takes, and prompts for them."""

import torch
import transformers as hf

IMAGE, VIDEO, START, END, LEAD = 90, 91, 92, 93, 94
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {**SMALL, "num_hidden_layers": 3, "num_key_value_heads": 2, "vocab_size": 99, "max_position_embeddings": 512}
TEXT |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
MERGED = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": START, "vision_end_token_id": END}
FAMILIES = (
    *("llava", "llava_next", "llava_onevision", "qwen2_vl", "qwen2_5_vl"),
    *("qwen3_vl", "idefics3", "smolvlm", "internvl"),
)


def model(kind, seed=0, **settings):
    """A model whose weights are large enough that every token matters."""
    torch.manual_seed(seed)
    made = getattr(hf, f"{_NAMES[kind]}ForConditionalGeneration")(_config(kind, settings)).eval()
    with torch.no_grad():
        for name, weight in made.named_parameters():
            weight.normal_(std=0.2).add_(1 if "norm" in name and name.endswith("weight") and weight.ndim == 1 else 0)
    made.generation_config.eos_token_id, made.generation_config.pad_token_id = None, 0
    return made


_NAMES = {
    "llava": "Llava",
    "llava_next": "LlavaNext",
    "llava_onevision": "LlavaOnevision",
    "qwen2_vl": "Qwen2VL",
    "qwen2_5_vl": "Qwen2_5_VL",
    "qwen3_vl": "Qwen3VL",
    "idefics3": "Idefics3",
    "smolvlm": "SmolVLM",
    "internvl": "InternVL",
}


def _config(kind, settings):
    name = f"{_NAMES[kind]}Config"
    vision = {**SMALL, "image_size": 24, "patch_size": 4}
    if kind.startswith("qwen"):
        return getattr(hf, name)(**_qwen(kind), **MERGED, **settings)
    if kind in ("idefics3", "smolvlm"):
        text = hf.LlamaConfig(**TEXT)
        return getattr(hf, name)(text_config=text, vision_config=vision, image_token_id=IMAGE, scale_factor=2)
    if kind == "internvl":
        vision = hf.InternVLVisionConfig(**{**vision, "image_size": [24, 24], "patch_size": [4, 4]})
        return hf.InternVLConfig(
            text_config=hf.Qwen2Config(**TEXT), vision_config=vision, image_token_id=IMAGE, image_seq_length=9
        )
    if kind == "llava_onevision":
        pins = [[24 * rows, 24 * columns] for rows in (1, 2, 3) for columns in (1, 2, 3)]
        parts = {"vision_config": hf.SiglipVisionConfig(**vision), "text_config": hf.Qwen2Config(**TEXT)}
        settings = {"vision_aspect_ratio": "anyres_max_2", "video_token_id": VIDEO, "image_grid_pinpoints": pins}
        return hf.LlavaOnevisionConfig(**parts, image_token_id=IMAGE, **settings)
    parts = {"vision_config": hf.CLIPVisionConfig(**vision), "text_config": hf.LlamaConfig(**TEXT)}
    if kind == "llava_next":
        settings = {"image_grid_pinpoints": [[24, 48], [48, 24], [48, 48], [72, 24]], **settings}
    return getattr(hf, name)(**parts, image_token_id=IMAGE, **settings)


def _qwen(kind):
    words = {**TEXT, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}}
    sight = {"depth": 3, "num_heads": 2, "patch_size": 4}
    if kind == "qwen2_vl":
        sight |= {"embed_dim": 24, "hidden_size": 32, "mlp_ratio": 2}
    elif kind == "qwen2_5_vl":
        sight |= {"hidden_size": 24, "out_hidden_size": 32, "intermediate_size": 40, "window_size": 16}
        sight |= {"fullatt_block_indexes": [1]}
    else:
        rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
        words |= {"head_dim": 16, "rope_parameters": rope}
        sight |= {"hidden_size": 24, "intermediate_size": 40, "out_hidden_size": 32, "num_position_embeddings": 25}
        sight |= {"deepstack_visual_indexes": [0, 2]}
    return {"text_config": words, "vision_config": sight}


SHAPES = ((40, 90), (24, 24), (60, 60))  # of pictures in pixels, where they may have any


def prompt(made, rows, *, left=True, seed=0):
    """Rows of words and of images (numbers of SHAPES), padded, as the family's processor returns them; each row is
    drawn by a seed of its own, so that it is the same alone."""
    kind, texts, pixels = made.config.model_type, [], []
    for number, row in enumerate(rows):
        chance = torch.Generator().manual_seed(seed + number)
        drawn, counts = _pixels(made, [SHAPES[image] for image in row], chance)
        pixels.append(drawn)
        text = _words(3, chance)
        for runs in counts:
            for run, tokens in enumerate(runs):
                text += [START if run == len(runs) - 1 else LEAD + run % 3, *[IMAGE] * tokens, END]
            text += _words(2, chance)
        texts.append([*text, *_words(4, chance)])
    width = max(map(len, texts))
    ids, mask = (torch.zeros(len(rows), width, dtype=torch.long) for _ in range(2))
    for number, text in enumerate(texts):
        place = slice(width - len(text), width) if left else slice(0, len(text))
        ids[number, place], mask[number, place] = torch.tensor(text), 1
    given = {"input_ids": ids, "attention_mask": mask}
    if kind.startswith("qwen"):
        given["mm_token_type_ids"] = (ids == IMAGE).int()
    if kind in ("idefics3", "smolvlm") and any(rows):  # rows of tiles, filled up with zeros
        given["pixel_values"] = torch.zeros(len(rows), max(len(each["pixel_values"]) for each in pixels), 3, 24, 24)
        for mine, each in zip(given["pixel_values"], pixels, strict=True):
            mine[: len(each["pixel_values"])] = each["pixel_values"]
    elif any(rows):
        given |= {name: torch.cat([each[name] for each in pixels]) for name in pixels[0]}
    return given


def _words(count, chance):
    return torch.randint(3, 89, (count,), generator=chance).tolist()


def _pixels(made, shown, chance):
    """What the family takes for pictures of these sizes, and the runs of tokens of each in the text."""
    kind = made.config.model_type
    if kind.startswith("qwen"):
        grids = torch.tensor([[1, high // 8 * 2, wide // 8 * 2] for high, wide in shown], dtype=torch.long).view(-1, 3)
        pixels = torch.randn(int(grids.prod(-1).sum()), 96, generator=chance)
        return {"pixel_values": pixels, "image_grid_thw": grids}, [[int(grid.prod()) // 4] for grid in grids]
    if kind == "llava":
        return {"pixel_values": torch.randn(len(shown), 3, 24, 24, generator=chance)}, [[36]] * len(shown)
    if kind in ("internvl", "idefics3", "smolvlm"):
        tiles = [high // 24 * (wide // 24) for high, wide in shown]
        tiles = [1 if count == 1 else count + 1 for count in tiles]
        pixels = torch.randn(sum(tiles), 3, 24, 24, generator=chance)
        return {"pixel_values": pixels}, [[9 * n] if kind == "internvl" else [9] * n for n in tiles]
    sizes = torch.tensor(shown, dtype=torch.long).view(-1, 2)
    given = {"pixel_values": torch.randn(len(shown), 10, 3, 24, 24, generator=chance), "image_sizes": sizes}
    if not shown:
        return given, []
    with torch.no_grad():
        found = made.model.get_image_features(**given, return_dict=True).pooler_output
    return given, [[len(features)] for features in found]
