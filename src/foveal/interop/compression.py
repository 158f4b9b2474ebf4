"""What stands on a compressed model of transformers: hooks between its parts, and what they saw last."""

import threading
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.types import IGNORE, Query, Relevance
from foveal.interop.columns import (
    Rows,
    Seen,
    assemble,
    mask_of,
    one_sequence,
    recall,
    remember,
    selected,
    unbroken,
    within,
)
from foveal.interop.following import opened, shut
from foveal.interop.pictures import OUT, Picture, listen, pictures
from foveal.interop.spending import Purse, spend
from foveal.interop.told import Told, by_name
from foveal.interop.turns import Turns


@dataclass(frozen=True, kw_only=True)
class Spent:
    """The last prompt with images that a compressed model read: the visual tokens of each image `before` and `after`,
    the column of the prompt that each token came from `source[B K]` (-1: padding), and for each image and each of its
    grids the maps by which it was cut (None: by none). A `note` says where the budget was not needed.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    source: Tensor
    relevance: tuple[tuple[Relevance | None, ...], ...]
    note: str = ""


@dataclass(kw_only=True)
class Call:
    """What is known of a forward pass that is under way."""

    opened: object
    given: dict[str, Any]
    prompt: int | None = None
    images: Any = None
    rows: Rows | None = None
    seen: Seen | None = None
    cache: Any = None  # that is cut, and open until the pass ends


class Compression:
    """A budget on a model, until `restore`; `last` is what was read of the latest prompt with images: of this thread,
    where it has read any.
    """

    def __init__(self, purse: Purse, *, owner: Any, head: Any, base: Any, language: Any, quiet: frozenset[int]) -> None:
        self.purse, self.owner, self.base, self.quiet = purse, owner, base, quiet
        self._lasts: dict[int, Spent] = {}  # by thread, the latest one last
        self._calls: dict[int, Call] = {}  # by thread
        self._turns = None if head is None else Turns(head, base.config)
        self._told = [*listen(base), Told(base, "get_image_features", self._found)]
        self._hooks = []
        for module in (base,) if head is None else (head, base):
            self._hooks.append(module.register_forward_pre_hook(self._open, with_kwargs=True))
            self._hooks.append(module.register_forward_hook(self._close, always_call=True))
        self._hooks.append(language.register_forward_pre_hook(self._read, with_kwargs=True))
        self._hooks.append(language.register_forward_hook(self._keep))
        self._head, self._own = head, self._measure  # one object, by which it is known among others
        self._measuring()
        owner.foveal = self
        if not hasattr(owner, "restore"):  # else it means something of its own
            owner.restore = self.restore
        torch.compiler.reset()  # what is compiled does not look for hooks that came since

    @property
    def last(self) -> Spent | None:
        """What was read."""
        return self._lasts.get(threading.get_ident()) or next(reversed(list(self._lasts.values())), None)

    @last.setter
    def last(self, spent: Spent) -> None:
        self._lasts.pop(threading.get_ident(), None)
        self._lasts[threading.get_ident()] = spent

    def restore(self) -> None:
        """Leave the model as it was before."""
        if self._hooks:
            torch.compiler.reset()
        for hook in self._hooks:
            hook.remove()
        for told in reversed(self._told):
            told.remove()
        if self._turns is not None:
            self._turns.remove()
        if self._head is None or self._head.__dict__.get("_loss_function") is not self._own:
            pass  # another was set since
        elif self._loss is None:
            del self._head._loss_function
        else:
            self._head.loss_function = self._loss
        self._hooks, self._told, self._head, self._turns = [], [], None, None
        if self.owner.__dict__.get("foveal") is self:
            del self.owner.foveal
        if self.owner.__dict__.get("restore") == self.restore:
            del self.owner.restore

    def _measuring(self) -> None:
        """Take the place of the loss that stands on the model, which may be one that was set since."""
        if self._head is None or torch.compiler.is_compiling():
            return
        there = self._head.__dict__.get("_loss_function")
        if there is not self._own:
            self._loss, self._plain_loss = there, self._head.loss_function
            self._head.loss_function = self._own

    def _found(self, told: Told, given: dict[str, Any], made: Any) -> None:
        call = self._calls.get(threading.get_ident())
        if call is not None:
            call.images = made

    def _open(self, module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        if torch.compiler.is_exporting():
            raise InputError(f"torch.export of a compressed model, whose cut depends on what it reads; {OUT}")
        thread, given = threading.get_ident(), by_name(module.forward, arguments, named)
        call = self._calls.get(thread)
        self._measuring()
        if call is None or call.opened is module or module is not self.base:
            call = Call(opened=module, given=given, prompt=None if self._turns is None else self._turns.prompt(given))
            self._calls[thread] = call
        else:
            call.given = {**call.given, **given}
        seen = call.given.get("mm_encoder_outputs") or {}
        if call.given.get("pixel_values_videos") is not None or (isinstance(seen, dict) and seen.get("video")):
            raise InputError(f"foveal.compress cuts pictures, and there are videos here; {OUT}")
        call.images = seen.get("image") if isinstance(seen, dict) else seen

    def _close(self, module: Any, arguments: tuple[Any, ...], made: Any) -> None:
        thread = threading.get_ident()
        call = self._calls.get(thread)
        if call is not None and call.opened is module:
            del self._calls[thread]
            shut(call.cache)

    def _read(
        self, module: Any, arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """The language model is about to read: with images, fewer tokens; after them, a cache that holds fewer."""
        call, cache = self._calls.get(threading.get_ident()), named.get("past_key_values")
        if call is None:
            return None
        held = 0 if cache is None else int(cache.get_seq_length())
        seen = recall(cache)
        if call.images is None and seen is None:
            return None
        embeds = named["inputs_embeds"]
        if seen is not None and len(seen.valid) != len(embeds):
            raise InputError(
                f"a cache of {len(seen.valid)} rows for {len(embeds)} to read; repeat its rows by "
                "cache.batch_repeat_interleave, or choose among them by cache.batch_select_indices"
            )
        if seen is not None:
            call.cache = opened(cache)
        past, length = held + (seen.saved if seen else 0), embeds.shape[1]
        visual = embeds.new_zeros(embeds.shape[:2], dtype=torch.bool)
        images: list[Picture] = []
        if call.images is not None:
            visual = self._visual(call.given, embeds)
            images = self._pictures(call, visual, embeds)
        if seen is None and not any(self.purse.cuts(image.spots) for image in images):
            return None
        if length > 1:  # what is written word by word goes on
            within(module.config, past + length)
        mask = mask_of(named.get("attention_mask"), rows=len(embeds), past=past, new=length, device=embeds.device)
        changed = self._cut(call, images, named, mask[:, past:], visual) if images else {}
        before = mask[:, :past] if seen is None else torch.cat([seen.valid, mask[:, seen.columns : past]], dim=1)
        valid = torch.cat([before, mask[:, past:] if call.rows is None else call.rows.valid], dim=1)
        positions = _positions(call.given, named.get("position_ids"), seen)
        if call.rows is not None:
            call.seen = Seen(columns=past + length, valid=valid, tail=unbroken(call.rows, length))
            positions = selected(positions, call.rows.source, past, length)
        elif positions is None:
            positions = torch.arange(past, past + length, device=embeds.device)[None]
        later = held > 0 and len(valid) == 1 and call.rows is not None  # else what is cached is never forgotten
        lengths = one_sequence(module.config, valid, new=positions.shape[-1]) if later else {}
        return arguments, {**named, **changed, **lengths, "attention_mask": valid.long(), "position_ids": positions}

    def _pictures(self, call: Call, visual: Bool[Tensor, "B L"], embeds: Float[Tensor, "B L D"]) -> list[Picture]:
        images = pictures(self.base, getattr(call.images, "pooler_output", call.images), visual, embeds, call.given)
        counts, note = tuple(image.spots.count for image in images), ""
        if self.purse.spares and max(counts, default=0) < self.purse.budget:
            note = f"a budget of {self.purse.budget} for images of at most {max(counts, default=0)} visual tokens"
        source = torch.arange(visual.shape[1], device=visual.device).expand_as(visual)
        self.last = Spent(before=counts, after=counts, source=source, relevance=((),) * len(counts), note=note)
        return images

    def _cut(
        self,
        call: Call,
        images: list[Picture],
        named: dict[str, Any],
        valid: Bool[Tensor, "B L"],
        visual: Bool[Tensor, "B L"],
    ) -> dict[str, Any]:
        """Spend the budget: sets the rows that are left, where any token is cut, and says what else changes."""
        if isinstance(call.given.get("logits_to_keep"), Tensor):
            raise InputError(f"logits_to_keep names places of a prompt that is to be cut; give a number, or {OUT}")
        embeds, deep = named["inputs_embeds"], tuple(named.get("deepstack_visual_embeds") or ())
        number = visual.flatten().cumsum(0).view_as(visual) - 1
        features, levels = [], []
        for image in images:
            columns = torch.tensor(image.columns, device=embeds.device)
            features.append(embeds[image.row, columns])
            levels.append(tuple(level[number[image.row, columns]] for level in deep))
        query = Query(features=embeds, valid=self._asked(call, valid & ~visual))
        left = spend(self.purse, images, features, levels, query)
        rows = call.rows = assemble(embeds, valid, visual, images, left)
        self.last = Spent(
            before=tuple(image.spots.count for image in images),
            after=tuple(len(part.numbers) for part in left),
            source=rows.source.masked_fill(~rows.valid, -1),
            relevance=tuple(part.looked for part in left),
        )
        deeper = {"visual_pos_masks": rows.visual, "deepstack_visual_embeds": list(rows.levels)} if deep else {}
        return {"inputs_embeds": rows.embeds, **deeper}

    def _visual(self, given: dict[str, Any], embeds: Tensor) -> Bool[Tensor, "B L"]:
        """Where image tokens stand, by id or, where the prompt came as vectors, by the vector of that id."""
        return self._standing(given, [self.base.config.image_token_id]).to(embeds.device)

    def _standing(self, given: dict[str, Any], words: list[int]) -> Bool[Tensor, "B L"]:
        """Where any of these words stands."""
        ids = given.get("input_ids")
        if ids is not None:
            return torch.isin(ids, torch.tensor(words, device=ids.device))
        embeds, table = given["inputs_embeds"], self.base.get_input_embeddings()
        known = [word for word in words if 0 <= word < table.weight.shape[0]]
        vectors = table(torch.tensor(known, dtype=torch.long, device=embeds.device)).to(embeds.device)
        there = torch.zeros(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
        row, column, word = (embeds[..., :1] == vectors[:, 0]).nonzero(as_tuple=True)  # few are alike in their first
        same = (embeds[row, column] == vectors[word]).all(-1)
        there[row[same], column[same]] = True
        return there

    def _asked(self, call: Call, words: Bool[Tensor, "B L"]) -> Bool[Tensor, "B L"]:
        """The words of the prompt that may steer: those before the first answer, where labels tell it."""
        labels = call.given.get("labels")
        if self.quiet:
            words = words & ~self._standing(call.given, sorted(self.quiet)).to(words.device)
        if labels is not None:
            words = words & ((labels != IGNORE).cumsum(1) == 0).to(words.device)
        if call.prompt is not None:
            words = words & (torch.arange(words.shape[1], device=words.device) < call.prompt)
        return words

    def _keep(self, module: Any, arguments: tuple[Any, ...], made: Any) -> None:
        """Leave with the cache what it holds."""
        call, cache = self._calls.get(threading.get_ident()), getattr(made, "past_key_values", None)
        if call is not None and call.seen is not None and cache is not None:
            remember(cache, call.seen)

    def _measure(self, *arguments: Any, **named: Any) -> Any:
        """The model's own loss, over the labels of the tokens that are left."""
        given, call = by_name(self._plain_loss, arguments, named), self._calls.get(threading.get_ident())
        if call is None or call.rows is None or given.get("labels") is None:
            return self._plain_loss(**given)
        if given.get("shift_labels") is not None:
            raise InputError(f"shift_labels are of the whole prompt, which was cut; give labels, or {OUT}")
        source = call.rows.source.to(given["labels"].device)
        labels = given["labels"].gather(1, source).masked_fill(~call.rows.valid.to(source.device), IGNORE)
        return self._plain_loss(**{**given, "labels": labels})


def standing(base: Any) -> list[Compression]:
    """The compressions of what puts text and images together, of whichever model around it they were asked."""
    owners = [getattr(hook, "__self__", None) for hook in base._forward_pre_hooks.values()]
    return [owner for owner in owners if isinstance(owner, Compression)]


def _positions(given: dict[str, Any], positions: Tensor | None, seen: Seen | None) -> Tensor | None:
    """Positions as of the whole prompt: those that a model counted itself, by what its cache holds, fall short."""
    if seen is None or positions is None or given.get("position_ids") is not None:
        return positions
    return positions if given.get("attention_mask") is not None else positions + seen.saved
