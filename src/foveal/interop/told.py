"""Methods of another library's objects that go on as they were, and tell what they did."""

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any


class Told:
    """A method of one object, which stands on the object in place of its class's and calls `tell(told, given, made)`
    after each call, with all arguments by name; before it, `change(given)` may give others. It goes on `within()`.
    `remove` takes it off, and where another stands in its place since, which calls it, lets it say nothing more.
    """

    def __init__(
        self,
        owner: Any,
        name: str,
        tell: Callable[["Told", dict[str, Any], Any], None] | None = None,
        change: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        within: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.owner, self.name, self.tell, self.change, self.within = owner, name, tell, change, within
        self.before = owner.__dict__.get(name)
        self.__wrapped__ = getattr(owner, name)  # `inspect.signature` looks here, by which generate() picks arguments
        setattr(owner, name, self)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        if self.change is not None:
            arguments, named = (), self.change(by_name(self.__wrapped__, arguments, named))
        with self.within():
            made = self.__wrapped__(*arguments, **named)
        if self.tell is not None:
            self.tell(self, by_name(self.__wrapped__, arguments, named), made)
        return made

    def remove(self) -> None:
        """Put back what was there."""
        if self.owner.__dict__.get(self.name) is not self:
            self.tell, self.change, self.within = None, None, nullcontext
        elif self.before is None:
            delattr(self.owner, self.name)
        else:
            setattr(self.owner, self.name, self.before)


def by_name(method: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a call by their names."""
    if not arguments:
        return dict(named)
    return {**dict(zip(inspect.signature(method).parameters, arguments, strict=False)), **named}
