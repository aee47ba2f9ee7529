"""Where one receiver's deliveries go: its push stream and its certificates, as the newest roster has them."""

from engine.events.facts import StreamFact, VerificationFact
from engine.pusher.service import Delivery, Receiver
from engine.pusher.streams import DeliveryMethod, StreamRecord, StreamStatus
from engine.pusher.targets import BadTarget, Target, target_of
from engine.telemetry import logs

_log = logs.logger("pusher")


class Destination:
    """stream: None = it has no push stream. target: None = nothing can be sent there."""

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self.stream = push_stream(receiver)
        self.target = self._target()

    def change(self, receiver: Receiver) -> bool:
        """The directory or the receiver's streams have changed; returns whether its push stream has."""
        before, self.stream = self.stream, push_stream(receiver)
        self.receiver = receiver
        self.target = self._target()
        return self.stream != before

    def takes(self, delivery: Delivery) -> bool:
        """Whether this may be sent now. What may not is read again when the stream has changed."""
        stream, fact = self.stream, delivery.fact
        if stream is None or self.target is None:
            return False
        if stream.challenge:
            return isinstance(fact, VerificationFact) and fact.challenge == stream.challenge
        if isinstance(fact, VerificationFact | StreamFact):
            stale = isinstance(fact, VerificationFact) and fact.challenge is not None
            return fact.stream_id == stream.stream_id and not stale
        return stream.status is StreamStatus.ENABLED

    @property
    def word(self) -> str:
        """For the status page."""
        if self.stream is None:
            return "none"
        return "unconfirmed" if self.stream.challenge else str(self.stream.status)

    def _target(self) -> Target | None:
        if self.stream is None:
            return None
        try:
            return target_of(self.stream.endpoint_url, frozenset(self.receiver.certificates))
        except BadTarget as fault:
            _log.error("bad_push_address", client=self.receiver.client_id, text=fault.text)
            return None


def push_stream(receiver: Receiver) -> StreamRecord | None:
    """The receiver's push stream, if there is one."""
    for stream in receiver.streams:
        if stream.delivery is DeliveryMethod.PUSH and not stream.deleted:
            return stream
    return None
