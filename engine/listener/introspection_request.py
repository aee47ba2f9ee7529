"""What an introspection request says, told from the message alone: pure, in the order of the sheet (section 8).

First the message as such, before anybody is known; then, for a known caller, the form of answer it may have and
what it asks. Whatever is wrong raises the `Refusal` that answers it.
"""

import enum
import re
from typing import Final

from engine.clock import parse_utc
from engine.consent.meter_points import is_shaped
from engine.consent.records import Answers, ParticipantRecord, Role
from engine.decision.questions import Ask, Share
from engine.listener.forms import BadForm, Form, read_form
from engine.listener.http1 import Request
from engine.listener.media import FORM, Head
from engine.listener.refusals import INVALID_CLIENT, INVALID_REQUEST, INVALID_TOKEN, Refusal

MAX_BODY: Final = 16_384  # bytes (row 12); the listener has refused larger ones already, unless configured otherwise

_DATASET: Final = re.compile(r"[a-z0-9][a-z0-9._-]{2,63}")
_PURPOSE_CODE: Final = re.compile(r"[a-z0-9_-]{1,40}")
_SHARE_ID: Final = re.compile(r"[!-~]{1,128}")


def read_request(request: Request, head: Head) -> Form:
    """Everything that can be told from the message alone (rows 4, 6, 8 to 12, 14). Raises Refusal."""
    if request.method != b"POST":
        raise Refusal(405, INVALID_REQUEST, (b"Allow", b"POST"))
    if b"?" in request.target:  # parameters belong into the body: targets end in logs (row 9)
        raise Refusal(400, INVALID_REQUEST)
    if not head.is_form:
        raise Refusal(415, INVALID_REQUEST, (b"Accept", FORM))
    if len(request.body) > MAX_BODY:
        raise Refusal(413, INVALID_REQUEST, close=True)
    try:
        form = read_form(request.body)
    except BadForm as fault:
        raise Refusal(400, INVALID_REQUEST) from fault
    _check_credentials(form, head)
    return form


def _check_credentials(form: Form, head: Head) -> None:
    """Callers prove themselves by certificate; anything else in the message is one method too many, or unknown."""
    if head.authorizations > 1 or form.has_credentials:
        raise Refusal(400, INVALID_REQUEST)  # row 6; RFC 6749 section 2.3
    if head.authorization == b"bearer":
        raise Refusal(401, INVALID_TOKEN, (b"WWW-Authenticate", b'Bearer error="invalid_token"'))  # row 4
    if head.authorization is not None:
        raise Refusal(401, INVALID_CLIENT, (b"WWW-Authenticate", b'Basic realm="introspection"'))  # row 3


class AnswerForm(enum.Enum):
    """What a 200 looks like."""

    PLAIN = "plain"  # RFC 7662 section 2.2
    SIGNED = "signed"  # RFC 9701 section 5


def form_of_answer(caller: ParticipantRecord, head: Head) -> AnswerForm:
    """Rows 5, 15 and 15a: the form an EDP is registered for, or the signed one where it asks for that.

    Whoever is registered for signed answers never gets a plain one, whatever it says it takes; whoever is no EDP
    gets plain ones only, for there is nothing in them to sign. Raises Refusal.
    """
    if caller.role is Role.EDP:
        if caller.answers is Answers.SIGNED and not head.takes_signed and head.takes_json:
            raise Refusal(400, INVALID_REQUEST)
        if head.takes_signed and (caller.answers is Answers.SIGNED or head.prefers_signed or not head.takes_json):
            return AnswerForm.SIGNED
    if not head.takes_json:
        raise Refusal(406, INVALID_REQUEST)
    return AnswerForm.PLAIN


def read_ask(caller: ParticipantRecord, form: Form) -> tuple[Ask, bytes]:
    """What is asked, about which token (rows 7 and 17). Raises Refusal."""
    if form.token is None:
        raise Refusal(400, INVALID_REQUEST)
    share = _read_share(form)
    if form.ccs_share_id is not None and not _SHARE_ID.fullmatch(form.ccs_share_id):
        raise Refusal(400, INVALID_REQUEST)
    return Ask(caller.client_id, share, form.ccs_share_id), form.token


def _read_share(form: Form) -> Share | None:
    """The context parameters: all four or none, the purpose code only with them."""
    dataset, meter_point, start, end = form.ccs_dataset_id, form.ccs_mpxn, form.ccs_from, form.ccs_to
    purpose = form.ccs_purpose_code
    if dataset is None and meter_point is None and start is None and end is None and purpose is None:
        return None
    if dataset is None or meter_point is None or start is None or end is None:
        raise Refusal(400, INVALID_REQUEST)
    if not _DATASET.fullmatch(dataset) or not is_shaped(meter_point):
        raise Refusal(400, INVALID_REQUEST)
    if purpose is not None and not _PURPOSE_CODE.fullmatch(purpose):
        raise Refusal(400, INVALID_REQUEST)
    try:
        share = Share(dataset, meter_point, parse_utc(start), parse_utc(end), purpose)
    except ValueError as error:
        raise Refusal(400, INVALID_REQUEST) from error
    if share.data_from >= share.data_to:
        raise Refusal(400, INVALID_REQUEST)
    return share
