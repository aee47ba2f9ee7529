"""A whole sandbox whose node is renewed and reloaded while participants ask."""

import signal
import threading
from collections import Counter

import pytest

from tests.support.sandbox import Caller, Running, eventually, kill

CALLERS = 4


class Asking:
    """Participants that ask about one token without rest. A call that met an ordered end is made again, once."""

    def __init__(self, sandbox: Running) -> None:
        (minted,) = sandbox.tokens()
        self.seen: Counter[tuple[int, bool]] = Counter()
        self.failed: list[str] = []
        self._token = minted["token"]
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(sandbox.caller(),)) for _ in range(CALLERS)]

    def __enter__(self) -> "Asking":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def more(self) -> None:
        seen = self.seen.total()
        eventually(lambda: self.seen.total() > seen + 100 or bool(self.failed))

    def _ask(self, caller: Caller) -> None:
        while not self._over.is_set() and not self.failed:
            try:
                self._once(caller)
            except ConnectionError:  # `http.client` has closed its end; the next call opens another
                try:
                    self._once(caller)
                except (OSError, ValueError) as error:
                    self.failed.append(repr(error))
            except (OSError, ValueError) as error:
                self.failed.append(repr(error))

    def _once(self, caller: Caller) -> None:
        status, answer = caller.introspect(self._token)
        self.seen[status, answer.get("active", False)] += 1


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP])
def test_a_node_renews_and_reloads_while_participants_ask(sandbox: Running, number: signal.Signals) -> None:
    eventually(lambda: sandbox.node_status()["state"] == "current")
    before = set(sandbox.about["pids"]["workers"])
    with Asking(sandbox) as asking:
        asking.more()
        kill(sandbox.about["pids"]["node"], number)
        if number is signal.SIGUSR1:
            eventually(lambda: before.isdisjoint(sandbox.about["pids"]["workers"]))
        asking.more()
    assert asking.failed == []
    assert asking.seen.keys() == {(200, True)}
    if number is signal.SIGHUP:  # nothing has changed, so nobody is replaced
        assert set(sandbox.about["pids"]["workers"]) == before
