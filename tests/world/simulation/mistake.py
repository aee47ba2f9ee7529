"""A deliberate mistake: a small change of the real code, made for a while."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import msgspec

Patch = Callable[[ExitStack], None]


class Mistake(msgspec.Struct, frozen=True):
    """change: for the table: what was done, and to which part of the code."""

    name: str
    change: str
    patch: Patch


@contextmanager
def made(mistake: Mistake | None) -> Iterator[None]:
    """Make a mistake for as long as the context lasts."""
    with ExitStack() as stack:
        if mistake is not None:
            mistake.patch(stack)
        yield


def replaced(target: object, name: str, value: object) -> Patch:
    """One attribute of a class or a module is another one."""

    def patch(stack: ExitStack) -> None:
        stack.enter_context(mock.patch.object(target, name, value))

    return patch


def together(*patches: Patch) -> Patch:
    """Several changes make one mistake."""

    def patch(stack: ExitStack) -> None:
        for one in patches:
            one(stack)

    return patch
