"""What people and scrapers hear of pushes: counts, log lines, security events. A flood is counted, not written."""

from typing import Final

import trio

from engine.consent.records import ClientId
from engine.pusher.schedule import Alarm, Judgement, Reply, Trouble
from engine.pusher.service import Delivery, Fate
from engine.telemetry import logs, pusher_metrics
from engine.telemetry.floods import Floods

_log = logs.logger("pusher")
_security = logs.logger("security")

# What somebody outside may be trying, by what came of the attempt.
_OF_TROUBLE: Final = {Trouble.ADDRESS: "push_address_refused", Trouble.CERTIFICATE: "push_certificate_unregistered"}
_OUTCOMES: Final = frozenset(trouble.value for trouble in Trouble) | {
    "invalid_request", "invalid_key", "invalid_issuer", "invalid_audience", "authentication_failed", "access_denied",
    "invalid_state", "unknown_err", "cannot_sign", "gone",
}  # fmt: skip


class Alarms:
    """Of one pusher."""

    def __init__(self) -> None:
        self._floods = Floods()
        self._odd: set[ClientId] = set()

    def attempted(
        self, delivery: Delivery, result: Reply | Trouble | None, judged: Judgement, *, now: float, detail: str = ""
    ) -> None:
        """One attempt has ended. result None: it was not even made. now: seconds since 1970."""
        lane = delivery.lane.name.lower()
        pusher_metrics.ATTEMPTS.labels(lane, outcome_word(judged)).inc()
        if judged.fate is Fate.DONE:
            pusher_metrics.TAKEN.labels(lane).observe(max(0.0, now - delivery.committed_at))
        elif judged.fate is Fate.PARKED:
            pusher_metrics.PARKED.labels(lane).inc()
        if isinstance(result, Trouble):
            self.unreached(delivery.client_id, result, detail)
        if judged.alarm is not None:
            self._raise(delivery, judged, result)

    def unreached(self, client_id: ClientId, trouble: Trouble, detail: str) -> None:
        """No answer."""
        kind = _OF_TROUBLE.get(trouble)
        if kind is not None:
            self.security_event(kind, client_id, detail)
        elif (left_out := self._floods.admit(trouble.value, trio.current_time())) is not None:
            _log.info("push_unreached", client=client_id, trouble=trouble.value, detail=detail, left_out=left_out)

    def security_event(self, kind: str, client_id: ClientId, detail: str) -> None:
        """Count it; write it unless this second has seen enough."""
        pusher_metrics.SECURITY_EVENTS.labels(kind).inc()
        left_out = self._floods.admit(kind, trio.current_time())
        if left_out is not None:
            _security.warning("security_event", kind=kind, caller=client_id, detail=detail, left_out=left_out)

    def circuit(self, client_id: ClientId, *, opened: bool) -> None:
        """A receiver is taken to be down, or is back."""
        event = "receiver_down" if opened else "receiver_back"
        if (left_out := self._floods.admit(event, trio.current_time())) is not None:
            _log.warning(event, client=client_id, left_out=left_out)

    def _raise(self, delivery: Delivery, judged: Judgement, result: Reply | Trouble | None) -> None:
        client_id = delivery.client_id
        if judged.alarm is Alarm.ODD_SUCCESS:
            if client_id not in self._odd:
                self._odd.add(client_id)
                _log.warning("push_answered_oddly", client=client_id, status=getattr(result, "status", 0))
            return
        if judged.alarm is Alarm.WRONG_AUDIENCE:
            self.security_event("push_wrong_audience", client_id, delivery.jti)
        left_out = self._floods.admit(str(judged.alarm), trio.current_time())
        if left_out is None:
            return
        write = _log.critical if judged.alarm is Alarm.GONE else _log.error
        write(
            "push_gone" if judged.alarm is Alarm.GONE else "push_parked",
            client=client_id,
            number=delivery.number,
            jti=delivery.jti,
            lane=delivery.lane.name.lower(),
            error=judged.error,
            left_out=left_out,
        )


def outcome_word(judged: Judgement) -> str:
    """A small closed set, for metrics: statuses by their hundreds."""
    if judged.fate is Fate.DONE:
        return "taken"
    if judged.error in _OUTCOMES:
        return judged.error
    return f"http_{judged.error[5:6]}xx" if judged.error.startswith("http_") else "other"
