"""Conversations to text with image markers, and which of it is an answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol

from foveal.core.errors import InputError, unknown
from foveal.core.example import Example

Order = Literal["as_given", "prefix", "suffix"]


class Marker(NamedTuple):
    """An image stands here; `bare` where the writer put the marker into the text and set the space around it."""

    bare: bool = False


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One message: who says it, and text and image markers in order."""

    role: str
    parts: tuple[str | Marker, ...]


@dataclass(frozen=True, kw_only=True)
class Span:
    """A stretch of rendered text; `answer` where a loss is wanted."""

    text: str
    answer: bool = False


class Renderer(Protocol):
    """What makes spans of turns; `reply` ends with what makes a model answer."""

    def __call__(self, turns: Sequence[Turn], *, marker: str, reply: bool) -> list[Span]: ...


@dataclass(frozen=True, kw_only=True)
class Template:
    """A chat format as data: what stands before and after each role's words; `{eos}` is the tokenizer's end token.

    An answer is `lead`, its words and the assistant's closing; `trail` follows it without loss. `beside` parts an
    image from the words next to it.
    """

    user: tuple[str, str]
    assistant: tuple[str, str]
    system: tuple[str, str] = ("", "")
    preamble: str = ""
    lead: str = ""
    trail: str = ""
    beside: str = ""

    def __call__(self, turns: Sequence[Turn], *, marker: str, reply: bool) -> list[Span]:
        """The conversation as spans; with `reply`, up to where an answer begins."""
        spans = [Span(text=self.preamble)]
        for turn in turns:
            opening, closing = self._around(turn.role)
            words = written(turn, marker=marker, beside=self.beside)
            if turn.role == "assistant":
                spans += [Span(text=opening), Span(text=self.lead + words + closing, answer=True)]
                spans += [Span(text=self.trail)]
            else:
                spans += [Span(text=opening + words + closing)]
        spans += [Span(text=self.assistant[0])] if reply else []
        return [span for span in spans if span.text]

    def _around(self, role: str) -> tuple[str, str]:
        known = {"user": self.user, "assistant": self.assistant, "system": self.system}
        if role not in known:
            raise unknown("role", role, known)
        return known[role]

    def ending_with(self, eos: str) -> "Template":
        """The same with `{eos}` filled in."""
        opening, closing = self.assistant
        return replace(self, assistant=(opening, closing.replace("{eos}", eos)))


TEMPLATES: Mapping[str, Template] = {
    "plain": Template(user=("<user>", ""), assistant=("<assistant>", "{eos}"), system=("<system>", "")),
    "qa": Template(user=("question: ", "\n"), assistant=("answer:", "{eos}"), lead=" ", trail="\n", beside="\n"),
    "vicuna": Template(
        user=("USER: ", " "), assistant=("ASSISTANT:", "{eos}"), system=("", " "), lead=" ", beside="\n"
    ),
    "chatml": Template(
        user=("<|im_start|>user\n", "<|im_end|>\n"),
        assistant=("<|im_start|>assistant\n", "<|im_end|>"),
        system=("<|im_start|>system\n", "<|im_end|>\n"),
        trail="\n",
        beside="\n",
    ),
}


def written(turn: Turn, *, marker: str, beside: str) -> str:
    """A turn as one string; `beside` goes after an image, or before one that ends the message."""
    text, last = "", len(turn.parts) - 1
    for place, part in enumerate(turn.parts):
        if isinstance(part, str):
            text += part
        elif part.bare:
            text += marker
        elif place == last and text and not isinstance(turn.parts[place - 1], Marker):
            text += beside + marker
        else:
            text += marker + beside
    return text


def question(images: Any, text: str, *, marker: str = "<image>") -> Example:
    """One user message out of images (one, several or None) and text.

    As many literal markers in the text as images say where these go; without any, images come before the text.
    Raises InputError where the counts disagree.
    """
    pictures = tuple(images) if isinstance(images, list | tuple) else () if images is None else (images,)
    place = [] if marker in text else [{"type": "image"} for _ in pictures]
    message = {"role": "user", "content": [*place, {"type": "text", "text": text}]}
    return Example(id="row 1", messages=(message,), images=pictures)


def turns(example: Example, *, marker: str, order: Order = "as_given", where: str = "") -> list[Turn]:
    """The messages checked and put in order; each image has exactly one marker, or InputError says both counts.

    Literal markers in the text place the images where no `{"type": "image"}` part does.
    """
    where = where or f"example {example.id!r}"
    made = [_turn(message, where) for message in example.messages]
    if not made:
        raise InputError(f"{where} has no messages; give at least one question")
    placed = sum(isinstance(part, Marker) for turn in made for part in turn.parts)
    literal = sum(part.count(marker) for turn in made for part in turn.parts if isinstance(part, str))
    if placed + literal != len(example.images) or (placed and literal):
        hint = f"; {literal} of them in its text" if placed and literal else ""
        raise InputError(
            f"{placed + literal} {marker} markers in {where} but {len(example.images)} images{hint}; "
            "give one image a marker"
        )
    if literal:
        made = [replace(turn, parts=_split(turn.parts, marker)) for turn in made]
    return [replace(turn, parts=_ordered(turn.parts, order)) for turn in made]


def _turn(message: Mapping[str, Any], where: str) -> Turn:
    role, content = message.get("role"), message.get("content")
    if role not in ("user", "assistant", "system"):
        raise InputError(f"{where} has a message of role {role!r}; use user, assistant or system")
    if isinstance(content, str):
        return Turn(role=role, parts=(content,))
    if not isinstance(content, Sequence):
        raise InputError(f"{where}: the content of a {role} message is {content!r}; give text or a list of parts")
    return Turn(role=role, parts=tuple(_part(part, where) for part in content))


def _part(part: Any, where: str) -> str | Marker:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "image":
        return Marker()
    if kind == "text" and isinstance(part.get("text"), str):
        return part["text"]
    raise InputError(f'{where} has a content part {part!r}; use {{"type": "image"}} or {{"type": "text", "text": ...}}')


def _split(parts: Sequence[str | Marker], marker: str) -> tuple[str | Marker, ...]:
    made: list[str | Marker] = []
    for part in parts:
        if isinstance(part, Marker):
            made.append(part)
            continue
        first, *rest = part.split(marker)
        made.append(first)
        for text in rest:
            made += [Marker(bare=True), text]
    return tuple(part for part in made if part != "")


def _ordered(parts: Sequence[str | Marker], order: Order) -> tuple[str | Marker, ...]:
    if order == "as_given":
        return tuple(parts)
    images = [Marker() for part in parts if isinstance(part, Marker)]
    text = [part for part in parts if isinstance(part, str)]
    if images and text:
        text[0] = text[0].lstrip()
        text[-1] = text[-1].rstrip()
    return (*images, *text) if order == "prefix" else (*text, *images)


class TokenizersOwn:
    """The chat template that a tokenizer brings (jinja), with the answers found in what it renders.

    Where it writes no end-of-turn token after an answer, the tokenizer's end token is put there.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        source = tokenizer.chat_template
        if isinstance(source, Mapping):
            source = source.get("default") or next(iter(source.values()))
        if not source:
            raise InputError("the tokenizer has no chat template; choose template: plain, qa, vicuna or chatml")
        self.takes_parts = "'image'" in source or '"image"' in source
        self.ends = tuple(token for token in tokenizer.all_special_tokens if token != tokenizer.bos_token)

    def __call__(self, turns: Sequence[Turn], *, marker: str, reply: bool) -> list[Span]:
        """The conversation as spans; with `reply`, up to where an answer begins."""
        answers, messages = [], []
        for turn in turns:
            if turn.role == "assistant":
                hidden = f"\ue000{len(answers)}\ue001"  # private letters stand for the answer, so that it can be found
                answers.append((hidden, written(turn, marker=marker, beside="")))
                messages.append({"role": "assistant", "content": self._content(Turn(role="", parts=(hidden,)), marker)})
            else:
                messages.append({"role": turn.role, "content": self._content(turn, marker)})
        rest = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=reply)
        spans = []
        for hidden, words in answers:
            before, found, rest = rest.partition(hidden)
            if not found:
                raise InputError("the tokenizer's chat template drops an answer; choose template: chatml or vicuna")
            end, rest = self._ending(rest)
            opening = before.rstrip(" ")  # a space between role and answer is the answer's: no prompt ends with one
            spans += [Span(text=opening), Span(text=before[len(opening) :] + words + end, answer=True)]
        return [span for span in (*spans, Span(text=rest)) if span.text]

    def _content(self, turn: Turn, marker: str) -> Any:
        if not self.takes_parts:
            return written(turn, marker=marker, beside="\n")
        pieces = [{"type": "text", "text": part} if isinstance(part, str) else part for part in turn.parts]
        if any(isinstance(part, Marker) and part.bare for part in turn.parts):
            return [{"type": "text", "text": written(turn, marker=marker, beside="")}]
        return [{"type": "image"} if isinstance(piece, Marker) else piece for piece in pieces]

    def _ending(self, rest: str) -> tuple[str, str]:
        """The end-of-turn token and what follows; white space before it belongs to the answer."""
        after = rest.lstrip()
        for token in self.ends:
            if token and after.startswith(token):
                cut = len(rest) - len(after) + len(token)
                return rest[:cut], rest[cut:]
        return self.tokenizer.eos_token or "", rest
