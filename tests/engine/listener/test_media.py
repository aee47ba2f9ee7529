"""What heads say: the media type, the answers taken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.listener import evaluation_head
from engine.listener.media import JSON, SIGNED, HeadReader, accepts, read_head

FORM = (b"content-type", b"application/x-www-form-urlencoded")


@pytest.mark.parametrize(
    ("value", "is_form"),
    [
        (b"application/x-www-form-urlencoded", True),
        (b"Application/X-WWW-Form-Urlencoded", True),
        (b"application/x-www-form-urlencoded; charset=UTF-8", True),
        (b"application/x-www-form-urlencoded ;charset=utf-8", True),
        (b"application/json", False),
        (b"application/x-www-form-urlencodedx", False),
        (b"text/plain; application/x-www-form-urlencoded", False),
        (b"", False),
    ],
)
def test_only_forms_are_forms(value: bytes, is_form: bool) -> None:
    assert read_head(((b"content-type", value),)).is_form is is_form


def test_a_named_client_is_seen_by_the_name_of_the_field_alone() -> None:
    for name in (b"client-cert", b"client-cert-chain"):
        assert read_head((FORM, (name, b""))).forwards
        assert evaluation_head.read_head((FORM, (name, b""))).forwards
    assert not read_head(((b"host", b"client-cert"),)).forwards
    assert not evaluation_head.read_head(((b"host", b"client-cert"),)).forwards


def test_a_missing_or_doubled_content_type_is_no_form() -> None:
    assert not read_head(()).is_form
    assert not read_head((FORM, FORM)).is_form


@pytest.mark.parametrize(
    ("fields", "json", "signed"),
    [
        ([], True, True),
        ([b""], True, True),
        ([b"*/*"], True, True),
        ([b"application/*"], True, True),
        ([b"application/json"], True, False),
        ([b"APPLICATION/JSON"], True, False),
        ([b"application/json;q=0.5, */*;q=0"], True, False),
        ([b"application/token-introspection+jwt"], False, True),
        ([b"application/token-introspection+jwt, application/json;q=0.1"], True, True),
        ([b"text/html", b"application/json"], True, False),
        ([b"text/html"], False, False),
        ([b"text/*"], False, False),
        ([b"application/json;q=0"], False, False),
        ([b"*/*, application/json;q=0"], False, True),
        ([b"*/*;q=0, application/json"], True, False),
        ([b"application/json;q=2"], False, False),
        ([b"application/json;q=x"], False, False),
        ([b"application/json; charset=utf-8; q=0.001"], True, False),
    ],
)
def test_accept_is_read_as_http_says(fields: list[bytes], json: bool, signed: bool) -> None:
    assert (accepts(fields, JSON), accepts(fields, SIGNED)) == (json, signed)


@pytest.mark.parametrize(
    ("accept", "preferred"),
    [
        (b"application/token-introspection+jwt", True),
        (b"Application/Token-Introspection+JWT;q=0.2", True),
        (b"application/json;q=0.5, application/token-introspection+jwt;q=0.6", True),
        (b"application/token-introspection+jwt, */*;q=0.1", True),
        (b"application/json, application/token-introspection+jwt", False),
        (b"application/json;q=0.6, application/token-introspection+jwt;q=0.5", False),
        (b"application/token-introspection+jwt;q=0", False),
        (b"*/*, application/json;q=0.5", False),
        (b"*/*", False),
        (b"", False),
    ],
)
def test_the_signed_form_is_preferred_where_it_is_named_and_weighs_more(accept: bytes, preferred: bool) -> None:
    assert read_head((FORM, (b"accept", accept))).prefers_signed is preferred


@given(st.lists(st.binary(max_size=40), max_size=4))
def test_no_accept_field_breaks_the_reader(fields: list[bytes]) -> None:
    assert accepts(fields, JSON) in (True, False)


def test_readings_are_remembered_without_credentials_or_bulk() -> None:
    reader = HeadReader(size=2)
    plain = (FORM, (b"accept", b"*/*"))
    assert reader.read(plain) is reader.read(plain)
    for passing in (
        (FORM, (b"authorization", b"Bearer abc")),
        (FORM, (b"accept", b"text/html, " * 200)),
    ):
        assert reader.read(passing) is not reader.read(passing)
        assert reader.read(passing) == reader.read(passing)


def test_what_is_remembered_has_a_bound() -> None:
    reader = HeadReader(size=4)
    for number in range(50):
        reader.read((FORM, (b"user-agent", b"%d" % number)))
    assert len(reader._heads) <= 4
