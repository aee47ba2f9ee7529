"""Streams on the wire (SSF 1.0 sections 7.1 and 8.1; RFC 8936 section 2): what is sent, and how a stream is shown."""

from collections.abc import Iterator
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from admin.directory.streams import VERIFICATION_INTERVAL, Wanted, is_stream_id
from engine.consent.reading import InvalidFields, Problem, plain_words, read_struct
from engine.events.sets import SUPPORTED
from engine.pusher.streams import DeliveryMethod, StreamRecord, StreamStatus

PUSH_URN: Final = "urn:ietf:rfc:8935"
POLL_URN: Final = "urn:ietf:rfc:8936"
MAX_BODY: Final = 262_144  # bytes: a thousand acknowledgements, or as many errors in words
MAX_ACKS: Final = 1_000
MAX_DESCRIPTION: Final = 1_000  # characters of why an event is refused; what is beyond is cut
_URNS: Final = {DeliveryMethod.PUSH: PUSH_URN, DeliveryMethod.POLL: POLL_URN}
_METHODS: Final = {urn: method for method, urn in _URNS.items()}
_OURS: Final = ("iss", "aud", "events_supported", "events_delivered", "min_verification_interval")

StreamId = Annotated[str, Meta(pattern="^[0-9a-f-]{36}$")]
Uri = Annotated[str, Meta(min_length=1, max_length=200)]
Uris = Annotated[tuple[Uri, ...], Meta(max_length=30)]
Url = Annotated[str, Meta(max_length=500)]
Words = Annotated[str, Meta(max_length=200)]
Jti = Annotated[str, Meta(min_length=1, max_length=128)]
UrnName = Literal["urn:ietf:rfc:8935", "urn:ietf:rfc:8936"]
StatusName = Literal["enabled", "paused", "disabled"]


class DeliveryForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How events come. endpoint_url: of a push stream; that of a poll stream is ours."""

    method: UrnName
    endpoint_url: Url = ""


class StreamForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A new stream; without `delivery` it is one for poll (SSF 1.0 section 8.1.1.1)."""

    delivery: DeliveryForm = DeliveryForm(method=POLL_URN)
    events_requested: Uris = ()
    description: Words = ""


class ChangeForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A stream's new values. Members that are ours may come along, as a GET shows them, and must not differ."""

    stream_id: StreamId
    delivery: DeliveryForm | None = None
    events_requested: Uris | None = None
    description: Words | None = None
    iss: Uri | None = None
    aud: Uri | None = None
    events_supported: Uris | None = None
    events_delivered: Uris | None = None
    min_verification_interval: int | None = None


class StatusForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """reason: your own words about why, shown with the status."""

    stream_id: StreamId
    status: StatusName
    reason: Words = ""


class VerifyForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """state: comes back in the verification event."""

    stream_id: StreamId
    state: Annotated[str, Meta(min_length=1, max_length=1024)] | None = None


class ConfirmForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """challenge: `ccs_challenge` of the verification event that came to the stream's address."""

    stream_id: StreamId
    challenge: Annotated[str, Meta(min_length=1, max_length=128)]


class SetErrorForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Why a receiver refuses an event (RFC 8935 section 2.4)."""

    err: Annotated[str, Meta(pattern="^[A-Za-z0-9_.:-]{1,64}$")]
    description: Annotated[str, Meta(max_length=MAX_DESCRIPTION)] = ""


class PollForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename="camel"):
    """RFC 8936 section 2.2. With `setErrs` send a Content-Language header."""

    max_events: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 100  # who wants all there are names the largest it has
    return_immediately: bool = False
    ack: Annotated[tuple[Jti, ...], Meta(max_length=MAX_ACKS)] = ()
    set_errs: Annotated[dict[Jti, SetErrorForm], Meta(max_length=MAX_ACKS)] = {}


class StreamQuery(msgspec.Struct, frozen=True):
    """Which stream."""

    stream_id: StreamId


class AnyStreamQuery(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which stream; all of yours where none is named."""

    stream_id: StreamId = ""


class DeliveryView(msgspec.Struct, frozen=True):
    """How events come."""

    method: UrnName
    endpoint_url: str


class StreamView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A stream's configuration (SSF 1.0 section 8.1.1). min_verification_interval: seconds."""

    stream_id: str
    iss: str
    aud: str
    events_supported: tuple[str, ...]
    events_delivered: tuple[str, ...]
    delivery: DeliveryView
    min_verification_interval: int
    events_requested: tuple[str, ...] = ()
    description: str = ""


class StatusView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A stream's status (SSF 1.0 section 8.1.2)."""

    stream_id: str
    status: StatusName
    reason: str = ""


class SetsView(msgspec.Struct, frozen=True, rename="camel"):
    """RFC 8936 section 2.3. sets: jti to compact SET, in no order that may be relied on."""

    sets: dict[str, str]
    more_available: bool


class Face(msgspec.Struct, frozen=True):
    """What stands in a stream's configuration and is the same for all. machine_url: without a path."""

    issuer: str
    machine_url: str

    def view_of(self, stream: StreamRecord) -> StreamView:
        """A stream as its receiver sees it."""
        return StreamView(
            stream_id=stream.stream_id,
            iss=self.issuer,
            aud=stream.client_id,
            events_supported=SUPPORTED,
            events_requested=stream.events_requested,
            events_delivered=SUPPORTED,
            delivery=DeliveryView(_URNS[stream.delivery], self._endpoint(stream)),  # type: ignore[arg-type]  # one of two
            min_verification_interval=int(VERIFICATION_INTERVAL),
            description=stream.description,
        )

    def wanted_by(self, form: ChangeForm, stream: StreamRecord, *, replace: bool) -> Wanted:
        """What a change asks for. replace: members left out go back to what they are by themselves.

        Raises InvalidFields where a member of ours differs.
        """
        problems = list(self._differing(form, stream))
        if problems:
            raise InvalidFields(problems)
        before = Wanted() if replace else self._kept(stream)
        delivery = form.delivery
        return Wanted(
            delivery=before.delivery if delivery is None else _METHODS[delivery.method],
            endpoint_url=before.endpoint_url if delivery is None else self._supplied(delivery, stream),
            events_requested=before.events_requested if form.events_requested is None else form.events_requested,
            description=before.description if form.description is None else form.description,
        )

    def _endpoint(self, stream: StreamRecord) -> str:
        if stream.delivery is DeliveryMethod.PUSH:
            return stream.endpoint_url
        return f"{self.machine_url}/ssf/poll/{stream.stream_id}"

    def _kept(self, stream: StreamRecord) -> Wanted:
        return Wanted(
            delivery=stream.delivery,
            endpoint_url=stream.endpoint_url,
            events_requested=stream.events_requested,
            description=stream.description,
        )

    def _supplied(self, delivery: DeliveryForm, stream: StreamRecord) -> str:
        """A poll stream's own address may come along too."""
        ours = delivery.method == POLL_URN and delivery.endpoint_url == self._endpoint(stream)
        return "" if ours else delivery.endpoint_url

    def _differing(self, form: ChangeForm, stream: StreamRecord) -> Iterator[Problem]:
        view = self.view_of(stream)
        for name in _OURS:
            sent = getattr(form, name)
            if sent is not None and sent != getattr(view, name):
                yield Problem(name, "is ours to set, and is another")


def wanted_of(form: StreamForm) -> Wanted:
    """What a new stream shall be."""
    return Wanted(
        delivery=_METHODS[form.delivery.method],
        endpoint_url=form.delivery.endpoint_url,
        events_requested=form.events_requested,
        description=form.description,
    )


def status_of(name: StatusName) -> StreamStatus:
    """As records have it."""
    return StreamStatus(name)


def status_view(stream: StreamRecord) -> StatusView:
    """A stream's status as its receiver sees it."""
    return StatusView(stream.stream_id, stream.status.value, stream.reason)


def read_poll(value: object) -> PollForm:
    """A poll from decoded JSON. Raises InvalidFields.

    Descriptions are made plain, and ids that are acknowledged twice named once: to refuse either would lose what is
    acknowledged beside it.
    """
    if isinstance(value, dict):
        value = {name: _as_it_counts(name, member) for name, member in value.items()}
    return read_struct(value, PollForm)


def _as_it_counts(name: str, member: object) -> object:
    match name, member:
        case "setErrs", dict(errors):
            return {jti: _in_plain_words(error) for jti, error in errors.items()}
        case "ack", list(jtis) if all(isinstance(jti, str) for jti in jtis):
            return list(dict.fromkeys(jtis))
    return member


def _in_plain_words(error: object) -> object:
    match error:
        case {"description": str(words), **rest}:
            return {**rest, "description": plain_words(words, MAX_DESCRIPTION)}
    return error


def read_stream_query(given: list[str], *, required: bool) -> str:
    """The `stream_id` of a query; "" = there is none. Raises InvalidFields."""
    if not given and not required:
        return ""
    if len(given) != 1 or not is_stream_id(given[0]):
        raise InvalidFields([Problem("stream_id", "must be one stream's id")])
    return given[0]
