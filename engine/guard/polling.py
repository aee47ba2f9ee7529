"""Fetching events by poll (RFC 8936): complete where pushes are fast. Applied first, acknowledged in the next call.

What was pushed is acknowledged here as well, since an acknowledgement of a push does not count for poll: whoever lost
its disk after a 202 gets everything again.
"""

from typing import Final

from engine.events.verification import ErrorCode, RefusedEvent
from engine.guard.event_keys import EventKeys
from engine.guard.event_store import EventStore
from engine.guard.intake import Intake
from engine.guard.transmitter import Transmitter
from engine.telemetry import logs

AT_ONCE: Final = 100  # events in one answer
ACKS: Final = 500  # in one call: 30 KB

_TEMPORARY: Final = frozenset({ErrorCode.INVALID_KEY, ErrorCode.AUTHENTICATION_FAILED})  # with other keys it may do

_log = logs.logger("events")


class Polling:
    """One poll stream of ours."""

    def __init__(self, transmitter: Transmitter, store: EventStore, intake: Intake, keys: EventKeys) -> None:
        self._transmitter = transmitter
        self._store = store
        self._intake = intake
        self._keys = keys

    async def drain(self, poll_url: str) -> int:
        """Fetch and acknowledge until nothing is left; returns how many came. One at a time.

        Raises the transmitter's faults, KeysUnavailable, StoreDown, MemoryFull; what was stored until then stays.
        """
        came, more, errors = 0, True, dict[str, RefusedEvent]()
        while True:
            if self._intake.is_behind:  # nothing is acknowledged that is still to be applied
                await self._intake.apply_due()
            ids = await self._intake.on_disk(self._store.unacknowledged, ACKS)
            if not (ids or more or errors):
                await self._keys.freshen()
                return came
            polled = await self._transmitter.poll(poll_url, ids, AT_ONCE if more else 0, errors)
            await self._intake.on_disk(self._store.acknowledged, ids)
            errors = await self._intake.take_page(polled.sets, self._keys)
            self._say(errors)
            came += len(polled.sets)
            # What is refused for now stays with the service: a page of nothing else would come for ever.
            more = more and polled.more_available and len(errors) < len(polled.sets)
            errors = _to_tell(errors)

    def _say(self, errors: dict[str, RefusedEvent]) -> None:
        for jti, refusal in errors.items():
            _log.warning("polled_event_refused", jti=jti, err=refusal.err, text=refusal.text)


def _to_tell(errors: dict[str, RefusedEvent]) -> dict[str, RefusedEvent]:
    """Those that it is no use to send again."""
    return {jti: refusal for jti, refusal in errors.items() if refusal.err not in _TEMPORARY}
