"""The form reader: one meaning or one refusal, whatever the bytes."""

from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.listener.forms import BadForm, Form, read_form

KNOWN = sorted(Form.__struct_fields__)
PRINTABLE = st.text(st.characters(min_codepoint=1, max_codepoint=127), max_size=40)
FORMISH = st.text(st.sampled_from("token=&%+abCD2G0~._-;\0\n\x7f\u00e9"), max_size=60).map(
    lambda text: text.encode("utf-8")
)


@pytest.mark.parametrize(
    ("body", "form"),
    [
        (b"", Form()),
        (b"token=", Form()),
        (b"token", Form()),
        (b"token=abc", Form(token=b"abc")),
        (b"token=a=b", Form(token=b"a=b")),
        (b"token=a%2Bb", Form(token=b"a+b")),
        (b"token=a+b", Form(token=b"a b")),
        (b"t%6Fken=abc", Form(token=b"abc")),
        (b"&&token=abc&", Form(token=b"abc")),
        (b"token=abc&token_type_hint=access_token", Form(token=b"abc", token_type_hint="access_token")),
        (b"token=abc&client_id=", Form(token=b"abc")),
        (b"client_id=edp-1&token=abc", Form(token=b"abc", client_id="edp-1")),
        (b"token=abc&unknown=1&unknown=2", Form(token=b"abc")),
        (b"Token=abc", Form()),
        (b"ccs_mpxn=mpan%3a1000000000012", Form(ccs_mpxn="mpan:1000000000012")),
    ],
)
def test_parameters_are_read(body: bytes, form: Form) -> None:
    assert read_form(body) == form


@pytest.mark.parametrize(
    "body",
    [
        b"token=abc&token=abc",
        b"token=abc&token=def",
        b"token=&token=abc",
        b"token=abc&t%6fken=abc",
        b"client_id=a&token=abc&client_id=a",
        b"token=abc%",
        b"token=abc%2",
        b"token=abc%zz",
        b"token=abc&%=1",
        b"token=abc&unknown=%zz",
        b"token=ab\xc3\xa9",
        b"token=abc&unknown=\xff",
        b"token=ab%C3%A9",
        b"token=ab%80",
        b"token=ab\0",
        b"token=ab%00",
        b"token=abc&unknown=%00",
    ],
)
def test_what_has_not_one_meaning_is_refused(body: bytes) -> None:
    with pytest.raises(BadForm):
        read_form(body)


def test_a_refusal_quotes_nothing() -> None:
    with pytest.raises(BadForm) as refused:
        read_form(b"token=secret&token=secret")
    assert "secret" not in refused.value.text + refused.value.detail


@given(st.one_of(st.binary(max_size=80), FORMISH))
@example(b"token=%")
@example(b"=&==&=token")
def test_nothing_comes_out_but_a_form_or_the_refusal(body: bytes) -> None:
    try:
        form = read_form(body)
    except BadForm:
        return
    assert isinstance(form, Form)
    values = [getattr(form, name) for name in KNOWN]
    assert all(value is None or len(value) > 0 for value in values)


@given(st.one_of(st.binary(max_size=60), FORMISH))
def test_the_short_way_gives_what_the_long_way_gives(tail: bytes) -> None:
    short = b"token=" + tail
    long = short + b"&"  # an empty pair: the long way, the same meaning
    assert _outcome(short) == _outcome(long)


@given(st.dictionaries(st.sampled_from(KNOWN), PRINTABLE.filter(bool), max_size=6))
def test_what_a_client_encodes_is_what_is_read(sent: dict[str, str]) -> None:
    form = read_form(urlencode(sent).encode())
    read = {name: getattr(form, name) for name in KNOWN if getattr(form, name) is not None}
    if "token" in read:
        read["token"] = read["token"].decode()
    assert read == sent


@given(FORMISH)
def test_another_reader_reads_the_same(body: bytes) -> None:
    form = _outcome(body)
    if form is None:
        return
    pairs = [pair for pair in parse_qsl(body.decode(), keep_blank_values=False) if pair[0] == "token"]
    assert [value.encode() for _, value in pairs] == ([] if form.token is None else [form.token])


def _outcome(body: bytes) -> Form | None:
    try:
        return read_form(body)
    except BadForm:
        return None
