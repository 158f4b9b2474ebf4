"""Processors on disk: Foveal's own, and those of Hugging Face checkpoints."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from foveal.core.errors import InputError, yaml_fault
from foveal.core.parsing import from_json, from_yaml
from foveal.preprocess.chat import Template
from foveal.preprocess.collate import Places
from foveal.preprocess.film_files import filmed, frames_of
from foveal.preprocess.processor import Processor, ProcessorConfig
from foveal.preprocess.spelling import BETWEEN, BY_MARK, BY_NAME
from foveal.preprocess.tiling import Tiling
from foveal.preprocess.transform import ImageTransform

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FRAME = ("<racm3:break>", "<eoss>")  # the words around Chameleon's images
_FAKE = "<fake_token_around_image>"  # that around IDEFICS-1's
_HEARD = "qformer_tokenizer"  # the directory of the words in which queries hear the question
_MARKED = ("<|vision_start|>", "<|vision_end|>")  # words of Qwen3 in whose places Ovis 2.5 has marks of its table
_MARKED_CHAT = Template(
    user=("<|im_start|>user\n", "<|im_end|>\n"),
    assistant=("<|im_start|>assistant\n<think>\n\n</think>\n\n", "<|im_end|>\n"),
    system=("<|im_start|>system\n", "<|im_end|>\n"),
    beside="\n",
)
_PIECES = b"\n"  # how SentencePiece's files begin; others of that name are tiktoken's
_MARKED_PIXELS = (448 * 448, 1344 * 1792)
_PLACES: dict[str, Places] = {"qwen2_vl": "grid", "qwen2_5_vl": "grid", "qwen3_vl": "frames"}
_SPELLINGS = {"split": BY_NAME, "native": BETWEEN, "covering_turned": BY_MARK}


def save(processor: Processor, directory: Path) -> None:
    """The tokenizer's files, and the settings under `processor` in `config.yaml` (whose other keys stay)."""
    directory.mkdir(parents=True, exist_ok=True)
    processor.tokenizer.save_pretrained(str(directory))
    if processor.listener is not None:
        processor.listener.save_pretrained(str(directory / _HEARD))
    path = directory / "config.yaml"
    config = _yaml(path) if path.exists() else {}
    config["processor"] = processor.settings()
    fresh = directory / "config.yaml.tmp"
    fresh.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    fresh.replace(path)


def load(directory: Path) -> Processor:
    """What `save` wrote."""
    path = directory / "config.yaml"
    if not path.exists():
        raise InputError(f"{directory} has no config.yaml; name a run directory")
    config = _yaml(path)
    if "processor" not in config:
        raise InputError(f"{path} has no 'processor' part; save the processor with the run")
    return Processor.from_settings(config["processor"], directory)


def tokenizer(directory: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer of a directory, none of whose code is run; raises InputError where there is none."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    if not directory.is_dir():
        raise InputError(f"{directory} is no directory; name one that holds a tokenizer.json")
    named, kind = _json(directory / "tokenizer_config.json").get("tokenizer_class"), AutoTokenizer
    told = _json(directory / "config.json").get("model_type") in CONFIG_MAPPING_NAMES  # and with it the ends of texts
    generic = (named is None and not told) or named in ("PreTrainedTokenizerFast", "TokenizersBackend")
    strange = named is not None and tokenizer_class_from_name(named) is None  # code of the checkpoint's own
    if (generic or strange) and (directory / "tokenizer.json").exists():
        kind = PreTrainedTokenizerFast
    try:
        return kind.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
    except (ImportError, MemoryError):
        raise
    except Exception as failed:  # its readers raise nearly anything on a file of another kind
        _check_pieces(directory)
        line = next(iter(str(failed).splitlines()), "") or type(failed).__name__
        raise InputError(f"{directory} holds no tokenizer that loads ({line}); add its tokenizer.json") from failed


def _check_pieces(directory: Path) -> None:
    """Raise InputError where SentencePiece's file is all there is, and what reads it is not installed."""
    from transformers.utils import is_protobuf_available, is_sentencepiece_available

    if (directory / "tokenizer.json").exists() or (is_sentencepiece_available() and is_protobuf_available()):
        return
    for path in sorted(directory.glob("*.model")):
        if path.is_file() and path.read_bytes()[:1] == _PIECES:
            raise InputError(
                f"{directory} has its words in {path.name} alone, and what reads it is not installed; pip install "
                "sentencepiece protobuf, or add its tokenizer.json"
            )


def from_huggingface(directory: Path, *, context: int | None = None) -> Processor:
    """Tokenizer, image settings and chat template of a checkpoint's own files.

    `context` is how many places its language model has, where the caller knows what config.json may leave out.
    A LLaVA checkpoint without a chat template is asked in Vicuna's format, a Chameleon by its separator.
    """
    config, processor = _json(directory / "config.json"), _json(directory / "processor_config.json")
    words = tokenizer(directory)
    template = _template(directory, processor) or words.chat_template
    if template:
        words.chat_template = template
    text = config.get("text_config") or config.get("llm_config") or config
    alone = _json(directory / "preprocessor_config.json")
    image = processor.get("image_processor") or alone
    if not image and {"vision_config", "vit_config"} & config.keys():
        raise InputError(f"{directory} has no preprocessor_config.json; copy it from the checkpoint's source")
    look = ImageTransform.from_huggingface(image) if image else ImageTransform()
    kind = str(config.get("model_type"))
    video = processor.get("video_processor") or _json(directory / "video_preprocessor_config.json") or alone
    look = filmed(look, kind, video)
    spelling = _SPELLINGS.get("" if look.tiling is None else look.tiling.kind)
    marker = _marker(config, processor, words)
    if (
        isinstance(template, str) and marker not in template
    ):  # Ovis 2's processor writes other words where its template has this one
        words.chat_template = template.replace("<image>", marker)
    draws = _FRAME[0] in (config.get("vocabulary_map") or {})
    if marked := "vit_config" in config:  # Ovis 2.5 formats and cuts by itself
        tiling = _native(config["vit_config"])
        look = replace(look, size=tiling.tile, tiling=tiling)
    settings = ProcessorConfig(
        image=look,
        template=_MARKED_CHAT if marked else "tokenizer" if template else _usual(config, words),
        around=_FRAME if draws else _MARKED if marked else (_FAKE, _FAKE) if kind == "idefics" else ("", ""),
        draws=draws,
        context=int(context or text.get("max_position_embeddings", 2048)),
        marker=marker,
        spelling=spelling,
        positions=_PLACES.get(kind, "line"),
        video=frames_of(kind, video, config.get("vision_config") or {}),
    )
    made = Processor(tokenizer=words, config=settings)
    made.listener = _listener(directory)
    return made


def _native(vit: dict[str, Any]) -> Tiling:
    """How Ovis 2.5 sizes a picture: its own shape, in whole tokens; thin ones are brought to what it reads."""
    patch, stride = int(vit.get("patch_size", 16)), int(vit.get("hidden_stride", 2))
    return Tiling(kind="area", tile=patch * stride, patch=patch, pixels=_MARKED_PIXELS, depth=1, thin="brought")


def of_settings(config: ProcessorConfig, directory: Path) -> Processor:
    """A processor of these settings with the tokenizers of a directory."""
    made = Processor(tokenizer=tokenizer(directory), config=config)
    made.listener = _listener(directory)
    return made


def _listener(directory: Path) -> "PreTrainedTokenizerBase | None":
    """The tokenizer of who hears the question in words of another vocabulary, where there is one."""
    return tokenizer(directory / _HEARD) if (directory / _HEARD).is_dir() else None


def _usual(config: dict[str, Any], words: "PreTrainedTokenizerBase") -> str | Template:
    """The format in which models of this kind are asked where they bring no template."""
    if "vocabulary_map" in config:
        return Template(user=("", str(words.sep_token or "")), assistant=("", "{eos}"))
    opening, bare = str(words.bos_token or ""), Template(user=("", ""), assistant=("", "{eos}"))
    if config.get("model_type") in ("blip-2", "instructblip"):  # images first, and then the token that begins a text
        return replace(bare, beside=opening)
    if config.get("model_type") == "idefics":
        return replace(bare, preamble=opening)
    return "vicuna" if "vision_config" in config else "qa"


def _template(directory: Path, processor: dict[str, Any]) -> str | dict[str, Any] | None:
    """The checkpoint's chat template, or several by name; of several files the one that the reference takes."""
    told = processor.get("chat_template") or _json(directory / "chat_template.json").get("chat_template")
    written = directory / "chat_template.jinja"
    if told is None and written.exists():
        return written.read_text()
    if not isinstance(told, list):
        return told
    return {str(one.get("name")): one.get("template") for one in told if isinstance(one, dict)}


def _marker(config: dict[str, Any], processor: dict[str, Any], words: Any) -> str:
    index = config.get("image_token_index", config.get("image_token_id"))
    token = words.convert_ids_to_tokens(index) if isinstance(index, int) and index < len(words) else None
    return token or processor.get("image_token") or "<image>"


def _json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        found = from_json(path.read_text())
    except ValueError as wrong:
        raise InputError(f"{path} is not JSON ({wrong}); copy it again from its source") from None
    if not isinstance(found, dict):
        raise InputError(f"{path} holds a {type(found).__name__}, not an object; copy it again from its source")
    return found


def _yaml(path: Path) -> dict[str, Any]:
    try:
        found = from_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as wrong:
        raise InputError(f"{path} is not YAML: {yaml_fault(wrong)}; mend or restore it") from None
    if not isinstance(found, dict):
        raise InputError(f"{path} holds {type(found).__name__}, not keys and values; mend or restore it")
    return found
