"""What a receiver refuses is logged in words that are ours."""

from typing import cast

import pytest

from admin.directory import poll_views
from admin.directory.poll_views import Polls, Queue
from admin.directory.stream_forms import PollForm, SetErrorForm
from admin.ledger.polling import Polled
from engine.consent.records import ClientId, Role
from engine.pusher.streams import DeliveryMethod, StreamRecord, StreamStatus


class Empty:
    """A queue in which nothing stands."""

    async def poll(self, *_: object) -> Polled:
        return Polled({}, more=False)


async def nobody_asks() -> StreamRecord:
    """Nothing is handed out."""
    raise AssertionError


class Heard:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.said: list[dict[str, object]] = []

    def warning(self, _event: str, **words: object) -> None:
        self.said.append(words)


async def test_a_receivers_own_words_are_not_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard()
    monkeypatch.setattr(poll_views, "_log", heard)
    stream = StreamRecord(
        stream_id="s",
        client_id=ClientId("edp-7"),
        role=Role.EDP,
        delivery=DeliveryMethod.POLL,
        status=StreamStatus.ENABLED,
    )
    words = ["invalid_key", *(f"word-{number}" for number in range(999))]
    errors = {f"{number:032x}": SetErrorForm(err=word, description="") for number, word in enumerate(words)}
    refusing = PollForm(set_errs=errors, max_events=0)
    await Polls(cast("Queue", Empty()), lambda: "me").poll(stream, refusing, nobody_asks)
    assert heard.said == [{"client_id": "edp-7", "codes": ["invalid_key", "other"], "sets": 1_000}]
