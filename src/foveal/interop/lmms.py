"""What the adapter for lmms-eval asks of a loaded model: answers in batches, and how unlikely given answers are.

lmms-eval finds the model `foveal` by the entry point `lmms_eval.models`; nothing of it is imported before.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from foveal.core.errors import InputError
from foveal.core.example import Example
from foveal.core.labels import next_labels
from foveal.core.types import IGNORE
from foveal.decode.generate import generate, spoken
from foveal.decode.sampling import Sampling, greedy, sampler
from foveal.models.causal import Causal
from foveal.preprocess.chat import question
from foveal.relevance.spending import whole_number


def manifest() -> Any:
    """The model `foveal` for lmms-eval's registry."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="foveal", simple_class_path="foveal.interop.lmms_model.Foveal")


def asked(loaded: Any, images: Sequence[Any], text: str) -> Example:
    """A question on opened pictures; their markers may stand in the text."""
    return question(list(images), text, marker=loaded.processor.config.marker)


@torch.inference_mode()
def replies(
    loaded: Any, questions: Sequence[Example], *, max_new_tokens: int, until: Sequence[str], sampling: Sampling = greedy
) -> list[str]:
    """The answers to a batch of questions, each up to the first of the texts `until`.

    Where the context has no room for so many new tokens, as many as it has are written. Raises InputError where it
    has none.
    """
    model, processor = loaded.model, loaded.processor
    batch = processor.prompt(questions, plan=model.plan, room=1).to(next(model.parameters()).device)
    room = model.language.context - int(batch.valid.sum(1).max())
    ids = generate(
        model, batch, max_new_tokens=min(max_new_tokens, room), stop_ids=processor.stop_ids, sampling=sampling
    )
    return [_until(processor.text(spoken(row, processor.stop_ids)), until) for row in ids.tolist()]


@torch.inference_mode()
def losses(loaded: Any, answered: Sequence[tuple[Example, str]]) -> list[tuple[float, bool]]:
    """For each question and answer the summed loss of the answer's tokens, its end included, and whether the model
    would write just these.
    """
    model, processor = loaded.model, loaded.processor
    examples = [
        replace(one, messages=(*one.messages, {"role": "assistant", "content": [{"type": "text", "text": answer}]}))
        for one, answer in answered
    ]
    batch = processor.training(examples, plan=model.plan).to(next(model.parameters()).device)
    labels = next_labels(batch)
    logits = model(batch).logits[:, :-1].float()
    each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORE, reduction="none")
    same = ((logits.argmax(-1) == labels) | (labels == IGNORE)).all(1)
    return list(zip(each.sum(1).tolist(), same.tolist(), strict=True))


def checked(loaded: Any, path: str) -> Any:
    """The loaded model. Raises InputError for one that does not write its answers word by word."""
    if not isinstance(getattr(loaded, "model", None), Causal):
        raise InputError(f"{path} writes no answers, and lmms-eval asks for such; give a run or checkpoint that does")
    return loaded


def count(given: Any, what: str) -> int:
    """A number of model_args, which come as numbers or as text. Raises InputError for no whole one, or none."""
    number = int(given) if isinstance(given, str) and given.strip().isdecimal() else whole_number(given)
    if number is None or number < 1:
        raise InputError(f"{what}={given}: no whole number of 1 or more; give one, such as {what}=64")
    return number


def drawn(settings: dict[str, Any]) -> Sampling:
    """How tokens are chosen by lmms-eval's generation settings: greedy, unless a temperature above 0 is given.

    Raises InputError for beams.
    """
    if (settings.get("num_beams") or 1) > 1:
        raise InputError(f"num_beams={settings['num_beams']}: answers are not searched for in beams; give 1")
    heat = float(settings.get("temperature") or 0)
    if heat <= 0 or settings.get("do_sample") is False:
        return greedy
    return sampler(temperature=heat, top_p=settings.get("top_p"), top_k=settings.get("top_k"))


def stops(settings: dict[str, Any]) -> list[str]:
    """The texts before which an answer ends; none unless they are given."""
    given = settings.get("until") or []
    return [given] if isinstance(given, str) else [text for text in given if text]


def _until(text: str, until: Sequence[str]) -> str:
    return text[: min((place for stop in until if (place := text.find(stop)) >= 0), default=len(text))].strip()
