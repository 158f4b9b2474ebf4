"""The models behind the page of `foveal app`: one question at a time, and what it shows as plain data."""

import base64
import hashlib
import io
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from foveal.cli import _app_look as look
from foveal.cli._app_wish import Wish, wish
from foveal.core.errors import InputError
from foveal.core.lookup import names

if TYPE_CHECKING:
    from PIL.Image import Image

_KEPT = 16  # questions whose answer with all tokens is remembered
_PAGES = 64  # pages whose last turn is
SUPERSEDED = {"superseded": True}  # the answer to what a page no longer wants to know


class Desk:
    """Runs by name, asked one at a time; what each says with all tokens is asked once a picture and question."""

    def __init__(self, runs: dict[str, Any]) -> None:
        from foveal.models.budget import ROOM
        from foveal.models.causal import Causal
        from foveal.models.masked import Masked

        self.runs, self.strategies = runs, tuple(sorted(names(ROOM)))
        for name, run in runs.items():
            if not isinstance(run.model, Causal | Masked) or run.processor is None or run.processor.speller is not None:
                raise InputError(
                    f"{name} is not asked in words about pictures; give --run a run that answers questions, "
                    "or score it with foveal eval"
                )
        self._turn, self._noting = threading.Lock(), threading.Lock()
        self._whole: OrderedDict[str, look.Told] = OrderedDict()
        self._last: OrderedDict[str, int] = OrderedDict()

    def offer(self) -> dict[str, Any]:
        """What the page can choose from."""
        return {"runs": list(self.runs), "strategies": list(self.strategies)}

    def ask(self, body: bytes) -> dict[str, Any]:
        """The answer to a request as JSON-ready data; raises InputError for bad ones.

        What waited for its turn until its page asked anew is `SUPERSEDED`, and takes no time.
        """
        asked = wish(body, runs=len(self.runs), strategies=self.strategies)
        self._note(asked)
        picture = asked.opened()
        with self._turn:
            if asked.page and asked.turn < self._last.get(asked.page, 0):
                return dict(SUPERSEDED)
            return self._asked(asked, picture)

    def _note(self, asked: Wish) -> None:
        """Remember the last turn of a page."""
        if not asked.page:
            return
        with self._noting:
            self._last[asked.page] = max(asked.turn, self._last.pop(asked.page, 0))
            while len(self._last) > _PAGES:
                self._last.popitem(last=False)

    def _asked(self, asked: Wish, picture: "Image") -> dict[str, Any]:
        from foveal.models.budget import budgeted, unspent

        run = list(self.runs.values())[asked.run]
        model, processor = run.model, run.processor
        whole = self._all(asked, unspent(model), processor, picture)
        seen, reason = _lens(model, processor, picture, asked)
        budget = asked.budget
        if asked.price is not None:
            if seen is None:
                raise InputError("a price wants tokens on a grid, and those of this model lie on none; give a budget")
            budget = seen.worth(asked.price)
        spends = budget is not None and budget < whole.answer.visual_tokens
        tensions = asked.tensions if asked.strategy == "foveal" else {}
        view = budgeted(unspent(model), budget, asked.strategy, **tensions) if spends else unspent(model)
        told = look.timed(view, processor, picture, asked) if spends else whole
        drawn = look.panels(view, processor, picture, asked, told=told, seen=seen)
        paid = None if seen is None or budget is None else seen.price(budget)
        cost = {"visual_tokens": told.answer.visual_tokens, "seconds": told.seconds, "budget": budget, "price": paid}
        against = {
            "answer": whole.answer.text,
            "visual_tokens": whole.answer.visual_tokens,
            "seconds": whole.seconds,
        }
        notes = [f"no ways of knowing: {reason}"] if look.looked_at(processor, picture, told, seen) is None else []
        shown = [{"group": p.group, "name": p.name, "note": p.note, "src": _source(p.drawn)} for p in drawn]
        return {"answer": told.answer.text, **cost, "all": against, "panels": shown, "notes": notes}

    def _all(self, asked: Wish, model: Any, processor: Any, picture: "Image") -> look.Told:
        """The answer with all tokens, remembered."""
        key = hashlib.sha256(asked.picture).hexdigest() + f"{asked.run} {asked.max_new_tokens} {asked.question}"
        if key not in self._whole:
            self._whole[key] = look.timed(model, processor, picture, asked)
            while len(self._whole) > _KEPT:
                self._whole.popitem(last=False)
        return self._whole[key]


def _lens(model: Any, processor: Any, picture: "Image", asked: Wish) -> tuple[look.Lens | None, str]:
    """How ours would look at the picture, or why it cannot."""
    try:
        return look.lens(model, processor, picture, asked), ""
    except InputError as reason:
        return None, str(reason)


def _source(drawn: "Image | None") -> str | None:
    """A picture as an address that holds it."""
    if drawn is None:
        return None
    held = io.BytesIO()
    drawn.save(held, "PNG")
    return f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}"
