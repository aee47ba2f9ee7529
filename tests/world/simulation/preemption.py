"""A process that is stopped in the middle of code that never waits: between two system calls, as any may be.

Such a piece of code runs in a thread of its own, in lock-step with the world: at one of the points it passes it stands
still for a while in simulated time.
"""

import inspect
import threading
from collections.abc import Callable
from typing import Generic, TypeVar, cast

import trio

T = TypeVar("T")


class Preemption(Generic[T]):
    """One call that is stopped at its so manieth point for some seconds."""

    def __init__(self, function: Callable[[], T], *, at: int, seconds: float) -> None:
        self._function, self._at, self._seconds = function, at, seconds
        self._go, self._handed_back = threading.Semaphore(0), threading.Semaphore(0)
        self._passed = 0
        self._done = False
        self._result: T | None = None
        self._error: BaseException | None = None

    def point(self) -> None:
        """Called by the code, in its thread."""
        self._passed += 1
        if self._passed == self._at:
            self._handed_back.release()
            self._go.acquire()

    async def run(self) -> T:
        """The call's result, later."""
        thread = threading.Thread(target=self._run)
        thread.start()
        waited = False
        try:
            self._handed_back.acquire()
            if not self._done:
                await trio.sleep(self._seconds)
            waited = True
        finally:
            if not self._done:
                self._go.release()
            thread.join()
            if inspect.iscoroutine(self._result) and not waited:
                self._result.close()  # nobody will await it
        if self._error is not None:
            raise self._error
        return cast("T", self._result)

    def _run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as error:
            self._error = error
        self._done = True
        self._handed_back.release()
