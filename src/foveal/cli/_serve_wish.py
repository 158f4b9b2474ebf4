"""What `foveal serve` may be asked, checked: OpenAI's chat completions, with a budget of visual tokens beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from foveal.cli._given import MOST_PIXELS, decoded, number, settings
from foveal.core.errors import InputError, nearest, unknown
from foveal.core.example import Example, Held

if TYPE_CHECKING:
    from PIL.Image import Image

WORDIEST = 1_000_000  # letters of a conversation
_LIGHT = 4_000_000  # pixels of a conversation that waits opened; more of them wait as their files
_STOPS = 4
_HEARD = ("model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop", "stream")
_HEARD += ("stream_options", "budget", "strategy")
_IDLE = ("user", "metadata", "safety_identifier", "prompt_cache_key", "service_tier")  # nothing of an answer
_NEUTRAL: dict[str, tuple[Any, ...]] = {  # what is not there, by the values that ask for none of it
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "store": (False,),
}
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class Refusal(InputError):
    """Bad input by the name of the setting that is wrong, and how the web calls it."""

    def __init__(
        self,
        told: str,
        param: str | None = None,
        *,
        code: str | None = None,
        status: HTTPStatus = HTTPStatus.BAD_REQUEST,
    ) -> None:
        super().__init__(told)
        self.param, self.code, self.status = param, code, status


@dataclass(frozen=True, kw_only=True)
class Wish:
    """A conversation with its opened pictures, how its answer is to be written, and how it is to be told.

    None are what the client left to the model; `usage` asks a stream for what it has cost.
    """

    asked: Example
    most: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stops: tuple[str, ...] = ()
    budget: int | None = None
    strategy: str = "foveal"
    stream: bool = False
    usage: bool = False

    @property
    def question(self) -> str | None:
        """The words, where one message is all of it."""
        if len(self.asked.messages) != 1:
            return None
        return "\n".join(part["text"] for part in self.asked.messages[0]["content"] if part["type"] == "text")


def wish(body: bytes, *, model: str, strategies: Sequence[str]) -> Wish:
    """The wish that a request's JSON holds; raises Refusal for any other."""
    try:
        given = settings(body, "send an object with 'messages'")
    except InputError as error:
        raise Refusal(str(error)) from None
    given = {name: value for name, value in given.items() if value is not None}
    _check_known(given)
    if given.get("model", model) != model:
        told = f"there is no model {given['model']!r:.80} here; ask {model!r}"
        raise Refusal(told, "model", code="model_not_found", status=HTTPStatus.NOT_FOUND)
    strategy = given.get("strategy", "foveal")
    if strategy not in strategies:
        raise Refusal(str(unknown("strategy", str(strategy)[:80], strategies)), "strategy")
    stream = _flag(given, "stream")
    return Wish(
        asked=_conversation(given.get("messages")),
        most=_most(given),
        temperature=_number(given, "temperature", 0, 2, whole=False),
        top_p=_top_p(given),
        seed=_number(given, "seed", -(2**63), 2**63 - 1),
        stops=_stops(given.get("stop")),
        budget=_number(given, "budget", 1, 1_000_000),
        strategy=strategy,
        stream=stream,
        usage=_usage(given, stream),
    )


def _check_known(given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if name in _HEARD or name in _IDLE:
            continue
        if name not in _NEUTRAL:
            near = nearest(name, (*_HEARD, *_NEUTRAL))
            hint = "leave it out" if near is None else f"did you mean {near!r}?"
            raise Refusal(f"unknown setting {name[:80]!r}; {hint}", name[:80], code="unknown_parameter")
        if value not in _NEUTRAL[name]:
            only = " or ".join(repr(one) for one in _NEUTRAL[name])
            raise Refusal(f"{name} of {value!r:.80} is not there; leave it out, or give {only}", name)


def _number(given: Mapping[str, Any], name: str, least: int | float, most: int | float, *, whole: bool = True) -> Any:
    try:
        return number(given, name, None, least, most, whole=whole)
    except InputError as error:
        raise Refusal(str(error), name) from None


def _most(given: Mapping[str, Any]) -> int | None:
    """The longest answer, by its old name or its new one."""
    old, new = (_number(given, name, 1, 1_000_000_000) for name in ("max_tokens", "max_completion_tokens"))
    if None not in (old, new) and old != new:
        raise Refusal(f"max_tokens of {old} and max_completion_tokens of {new}; give one of the two", "max_tokens")
    return old if new is None else new


def _top_p(given: Mapping[str, Any]) -> float | None:
    top_p = _number(given, "top_p", 0, 1, whole=False)
    if top_p == 0:
        raise Refusal("top_p of 0; give a number above 0, or for the best token alone a temperature of 0", "top_p")
    return top_p


def _flag(given: Mapping[str, Any], name: str, where: str = "") -> bool:
    if not isinstance(value := given.get(name, False), bool):
        raise Refusal(f"{where}{name} of {value!r:.80}; give true or false", where.rstrip(".") or name)
    return value


def _usage(given: Mapping[str, Any], stream: bool) -> bool:
    options = given.get("stream_options")
    if options is None:
        return False
    if not stream:
        raise Refusal("stream_options without a stream; give stream true, or leave them out", "stream_options")
    if not isinstance(options, dict) or not set(options) <= {"include_usage", "include_obfuscation"}:
        raise Refusal(f"stream_options of {options!r:.80}; give {{'include_usage': true}}", "stream_options")
    if _flag(options, "include_obfuscation", "stream_options."):
        raise Refusal("stream_options.include_obfuscation is not there; leave it out, or give False", "stream_options")
    return _flag(options, "include_usage", "stream_options.")


def _stops(given: Any) -> tuple[str, ...]:
    listed = [given] if isinstance(given, str) else [] if given is None else given
    if not isinstance(listed, list) or not all(isinstance(one, str) and one for one in listed):
        raise Refusal(f"stop of {given!r:.80}; give a text, or a list of texts that are not empty", "stop")
    if len(listed) > _STOPS:
        raise Refusal(f"stop of {len(listed)} texts; give at most {_STOPS}", "stop")
    return tuple(listed)


def _conversation(given: Any) -> Example:
    """The messages in the house's form, and their pictures opened, in order."""
    if not isinstance(given, list) or not given:
        raise Refusal("there are no messages; give a list with at least one of the user", "messages")
    images: list[tuple[Image, bytes]] = []
    messages = [_message(one, f"messages[{number}]", images) for number, one in enumerate(given)]
    if messages[-1]["role"] != "user":
        role = given[-1]["role"]
        raise Refusal(f"the last message is of the {role}; end with one of the user", f"messages[{len(given) - 1}]")
    words = [part["text"] for one in messages for part in one["content"] if part["type"] == "text"]
    if (letters := sum(map(len, words))) > WORDIEST:
        raise Refusal(f"a conversation of {letters} letters; give at most {WORDIEST}", "messages")
    heavy = sum(image.width * image.height for image, _ in images) > _LIGHT
    shown = tuple(Held(file) if heavy else image for image, file in images)
    return Example(id="conversation", messages=tuple(messages), images=shown)


def _message(given: Any, where: str, images: "list[tuple[Image, bytes]]") -> dict[str, Any]:
    role = given.get("role") if isinstance(given, dict) else None
    if not isinstance(role, str) or role not in _ROLES:
        raise Refusal(f"{where} is of role {role!r:.80}; use {', '.join(_ROLES)}", f"{where}.role")
    for name, value in given.items():
        if name not in ("role", "content", "name") and value not in (None, [], {}):
            raise Refusal(f"{where} has {name[:80]!r}, which is not there; leave it out", f"{where}.{name[:80]}")
    content = given.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise Refusal(f"the content of {where} is no text; give text, or a list of parts", f"{where}.content")
    if len(content) == 1 and content[0] == {"type": "text", "text": ""} and role == "assistant":
        return {"role": role, "content": content}  # it said nothing
    parts = [_part(part, f"{where}.content[{number}]", role, images) for number, part in enumerate(content)]
    if not any(part["type"] == "image" or part["text"].strip() for part in parts):
        raise Refusal(f"{where} is empty; write what you want to know", f"{where}.content")
    return {"role": _ROLES[role], "content": parts}


def _part(given: Any, where: str, role: str, images: "list[tuple[Image, bytes]]") -> dict[str, str]:
    kind = given.get("type") if isinstance(given, dict) else None
    if kind == "text" and isinstance(text := given.get("text"), str):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise Refusal(f"{where} holds half a character; write it in UTF-8", where) from None
        return {"type": "text", "text": text}
    if kind == "image_url" and role == "user":
        source = given.get("image_url")
        images.append(_picture(source.get("url") if isinstance(source, dict) else None, where, images))
        return {"type": "image"}
    if kind == "image_url":
        raise Refusal(f"{where} shows a picture, and its message is of the {role}; show it in one of the user", where)
    forms = '{"type": "text", "text": ...} or {"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}}'
    raise Refusal(f"{where} is of type {kind!r:.80}; use {forms}", where)


def _picture(url: Any, where: str, before: "Sequence[tuple[Image, bytes]]") -> "tuple[Image, bytes]":
    """The picture that a data: URI holds, opened and as its file."""
    from foveal.preprocess.image import open_image

    way = "put the picture itself there: data:image/png;base64,..."
    if not isinstance(url, str):
        raise Refusal(f"{where} has no image_url.url; {way}", where)
    kind, comma, letters = url.partition(",")
    if not kind[:5].lower() == "data:":
        raise Refusal(f"{where} names {url[:40]!r}, and this server opens no addresses and no files; {way}", where)
    held = decoded("".join(letters.split())) if comma and kind.lower().endswith(";base64") else None
    if not held:
        raise Refusal(f"{where} holds no picture in base64; {way}", where)
    left = MOST_PIXELS - sum(image.width * image.height for image, _ in before)
    try:
        return open_image(held, name=f"the picture of {where}", limit=max(left, 1)), held
    except InputError as error:
        raise Refusal(str(error), where) from None
