"""Conversations to text with image markers, and which of it is an answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from foveal.core.errors import InputError, unknown
from foveal.core.example import Example
from foveal.preprocess.image import kept
from foveal.preprocess.video import is_video

Order = Literal["as_given", "prefix", "suffix"]


class Marker(NamedTuple):
    """An image or a `film` stands here; `bare` where the writer put the marker into the text and set its space."""

    bare: bool = False
    film: bool = False


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One message: who says it, and text and image markers in order."""

    role: str
    parts: tuple[str | Marker, ...]


@dataclass(frozen=True, kw_only=True)
class Span:
    """A stretch of rendered text; `answer` where a loss is wanted, `said` from the first answer on where none is."""

    text: str
    answer: bool = False
    said: bool = False


@runtime_checkable
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


def listed(images: Any) -> list[Any]:
    """Images that were given as one, as several or as None."""
    return list(images) if isinstance(images, list | tuple) else [] if images is None else [images]


def question(images: Any, text: object, *, marker: str = "<image>") -> Example:
    """One user message out of images (one, several or None) and text.

    As many literal markers in the text as images say where these go; without any, images come before the text.
    Raises InputError for an empty text, and for what is none; `turns` raises it where the counts disagree.
    """
    if not isinstance(text, str):
        raise InputError(f"a question of type {type(text).__name__}; give one string, and ask each question by itself")
    if not text.strip():
        raise InputError("the question is empty; write what you want to know")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the question holds half a character ({text[error.start]!a}); write it in UTF-8") from None
    pictures = tuple(kept(picture) for picture in listed(images))
    kinds = ("video" if is_video(picture) else "image" for picture in pictures)
    place = [] if marker in text else [{"type": kind} for kind in kinds]
    message = {"role": "user", "content": [*place, {"type": "text", "text": text}]}
    return Example(id="question", messages=(message,), images=pictures)


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
    if kind in ("image", "video"):
        return Marker(film=kind == "video")
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
    images = [part._replace(bare=False) for part in parts if isinstance(part, Marker)]
    text = [part for part in parts if isinstance(part, str)]
    if images and text:
        text[0] = text[0].lstrip()
        text[-1] = text[-1].rstrip()
    return (*images, *text) if order == "prefix" else (*text, *images)


class TokenizersOwn:
    """The chat template that a tokenizer brings (jinja), with the answers found in what it renders.

    What asks for a reply is as the template writes it. An answer that is learned ends: where the template writes no
    end-of-turn token after it, the tokenizer's end token is put there. What stands for a video is written as the
    template does it, or where it knows of none as the word `film`; without that as an image.
    """

    def __init__(self, tokenizer: Any, film: str | None = None) -> None:
        self.tokenizer = tokenizer
        source = tokenizer.chat_template
        if isinstance(source, Mapping):
            if "default" not in source:
                raise InputError(
                    f"{len(source)} chat templates ({', '.join(source)}) and none is named default; name one of them so"
                )
            source = source["default"]
        if not source:
            raise InputError("the tokenizer has no chat template; choose template: plain, qa, vicuna or chatml")
        shown = {"type": "text", "text": film} if "'video'" not in source and '"video"' not in source else None
        self.video = {"type": "image"} if film is None else shown or {"type": "video"}
        self.takes_parts = "'image'" in source or '"image"' in source
        self.ends = tuple(token for token in tokenizer.all_special_tokens if token != tokenizer.bos_token)

    def __call__(self, turns: Sequence[Turn], *, marker: str, reply: bool) -> list[Span]:
        """The conversation as spans; with `reply`, up to where an answer begins."""
        # Private letters stand for the answers while the template runs, so that they can be found in what it renders.
        hidden = {place: f"\ue000{place}\ue001" for place, turn in enumerate(turns) if turn.role == "assistant"}
        shown = [replace(turn, parts=(hidden[i],)) if i in hidden else turn for i, turn in enumerate(turns)]
        messages, whole = self._told(shown, marker, reply, tuple(hidden.values()))
        if reply and hidden:
            return self._asked(turns, marker, messages, whole, hidden)
        spans, begin = [], 0
        for place, stand_in in hidden.items():
            here = _found(stand_in, whole, begin)
            opening = max(begin, self._opening(messages[:place], whole[:here]))
            after = here + len(stand_in)
            end = self._ending(whole[after:])
            words = whole[opening:here] + written(turns[place], marker=marker, beside="") + end
            spans += [Span(text=whole[begin:opening]), Span(text=words, answer=True)]
            begin = after + (len(end) if whole.startswith(end, after) else 0)
        return [span for span in (*spans, Span(text=whole[begin:])) if span.text]

    def _asked(
        self,
        turns: Sequence[Turn],
        marker: str,
        messages: Sequence[dict[str, Any]],
        whole: str,
        hidden: Mapping[int, str],
    ) -> list[Span]:
        """What asks for a reply to a conversation that holds answers: in two spans, before the first of these and on.

        `messages` and the `whole` that they make have stand-ins for them, and tell whether they are read as text.
        """
        given = [
            {**message, "content": self._answer(turns[place], marker, message["content"])}
            if place in hidden
            else message
            for place, message in enumerate(messages)
        ]
        first = min(hidden)
        for stand_in in hidden.values():
            _found(stand_in, whole)
        before = whole[: self._opening(list(messages[:first]), whole[: _found(hidden[first], whole)])]
        text = self._rendered(given, True)
        begun = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, text, strict=False)))
        return [span for span in (Span(text=text[:begun]), Span(text=text[begun:], said=True)) if span.text]

    def _answer(self, turn: Turn, marker: str, like: Any) -> Any:
        """An answer's content, of the kind that the template prints."""
        if isinstance(like, str):
            return written(turn, marker=marker, beside="")
        return self._content(turn, marker) or [{"type": "text", "text": ""}]

    def _told(
        self, turns: Sequence[Turn], marker: str, reply: bool, answers: Sequence[str]
    ) -> tuple[list[dict[str, Any]], str]:
        """The messages, and what the template makes of them: answers in parts, or where it prints none so, as text."""
        messages = [{"role": turn.role, "content": self._content(turn, marker)} for turn in turns]
        try:
            whole = self._rendered(messages, reply)
        except InputError:
            if not answers or not self.takes_parts:
                raise
            whole = ""
        if self.takes_parts and not all(answer in whole for answer in answers):
            messages = [
                {**message, "content": written(turn, marker=marker, beside="")} if turn.role == "assistant" else message
                for message, turn in zip(messages, turns, strict=True)
            ]
            whole = self._rendered(messages, reply)
        return messages, whole

    def _rendered(self, messages: list[dict[str, Any]], reply: bool) -> str:
        from jinja2.exceptions import TemplateError

        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=reply)
        except (TemplateError, TypeError) as refused:
            raise InputError(f"the tokenizer's chat template refuses the conversation: {refused}") from refused

    def _opening(self, messages: list[dict[str, Any]], before: str) -> int:
        """Where the answer to these messages begins: right after the prompt that asks for it."""
        prompt = self._rendered(messages, True) if messages else ""
        return len(prompt) if prompt and before.startswith(prompt) else len(before)

    def _content(self, turn: Turn, marker: str) -> Any:
        if not self.takes_parts:
            return written(turn, marker=marker, beside="\n")
        if Marker(bare=True) in turn.parts:
            return [{"type": "text", "text": written(turn, marker=marker, beside="")}]
        return [
            {"type": "text", "text": p} if isinstance(p, str) else self.video if p.film else {"type": "image"}
            for p in turn.parts
        ]

    def _ending(self, rest: str) -> str:
        """The end-of-turn token after an answer, with the white space before it."""
        after = rest.lstrip()
        for token in self.ends:
            if token and after.startswith(token):
                return rest[: len(rest) - len(after) + len(token)]
        return str(self.tokenizer.eos_token or "")


def _found(stand_in: str, whole: str, begin: int = 0) -> int:
    place = whole.find(stand_in, begin)
    if place < 0:
        raise InputError("the tokenizer's chat template drops an answer; choose template: chatml or vicuna")
    return place


def exchange(render: Renderer, marker: str) -> list[Span]:
    """A question and its answer as they are written; nothing where the template has no place for an answer."""
    turns = [Turn(role="user", parts=("a",)), Turn(role="assistant", parts=("b",))]
    try:
        return render(turns, marker=marker, reply=False)
    except InputError:
        return []


def renderer(
    template: str | Template, tokenizer: Any, *, around: tuple[str, str] = ("", ""), film: str | None = None
) -> Renderer:
    """What makes spans of turns by a template, its name, or `tokenizer` (its own), each image between `around`.

    A word that both begins and ends an image is written once between two images that touch. Raises InputError for an
    unknown name.
    """
    if template == "tokenizer":
        return _framed(TokenizersOwn(tokenizer, film), around)
    if isinstance(template, str):
        if template not in TEMPLATES:
            raise unknown("template", template, (*TEMPLATES, "tokenizer"))
        template = TEMPLATES[template]
    return _framed(template.ending_with(tokenizer.eos_token or ""), around)


def _framed(render: Renderer, around: tuple[str, str]) -> Renderer:
    begin, end = around

    def framed(turns: Sequence[Turn], *, marker: str, reply: bool) -> list[Span]:
        spans = render(turns, marker=marker, reply=reply)
        texts = [span.text.replace(marker, begin + marker + end) for span in spans]
        if begin == end:
            texts = [text.replace(end + begin, end) for text in texts]
        return [replace(span, text=text) for span, text in zip(spans, texts, strict=True)]

    return framed if begin or end else render
