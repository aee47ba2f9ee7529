"""Which addresses a push stream may have, by their text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admin.directory.push_urls import MAX_URL, push_url_problem
from engine.pusher.targets import target_of

PUBLIC = [
    "https://events.edp7.example/ccs",
    "https://edp7.example:8443/ccs?stream=1&x=%20",
    "https://xn--bcher-kva.example/",
    "https://8.8.8.8/ccs",
    "https://[2606:4700:4700::1111]:8443/ccs",
]
PRIVATE = [
    "https://localhost:9000/ccs",
    "https://printer.local/",
    "https://db.internal/",
    "https://intranet/",
    "https://127.0.0.1/",
    "https://10.1.2.3/",
    "https://172.16.0.1/",
    "https://192.168.1.1/",
    "https://169.254.169.254/latest/meta-data",
    "https://100.64.0.1/",
    "https://0.0.0.0/",
    "https://[::1]/",
    "https://[::]/",
    "https://[fe80::1]/",
    "https://[fd00::1]/",
    "https://[::ffff:10.0.0.1]/",
    "https://[2002:0a00:0001::]/",
    "https://224.0.0.1/",
]
NEVER = [
    "",
    "http://events.edp7.example/ccs",
    "ftp://events.edp7.example/ccs",
    "//events.edp7.example/ccs",
    "https:///ccs",
    "https://",
    "https://user@edp7.example/",
    "https://user:word@edp7.example/",
    "https://@edp7.example/",
    "https://edp7.example/#part",
    "https://edp7.example/a b",
    "https://edp7.example/\n",
    "https://edp7.example:0/",
    "https://edp7.example:99999/",
    "https://edp7.example:port/",
    "https://edp7.example\\@inside.example/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0177.0.0.1/",
    "https://127.1/",
    "https://edp7.example./",
    "https://-edp7.example/",
    "https://[::1/",
    "https://[2606:4700:4700::1111%25eth0]/",
    "https://[2606:4700:4700::1111%eth0]:8443/",
    "https://[2606:4700:4700::1111]edp7.example/",
    "https://[v1.edp7]/",
    "https://b\u00fccher.example/",
    "https://edp7.example/" + "x" * MAX_URL,
]


@pytest.mark.parametrize("url", PUBLIC)
def test_a_public_address_is_taken(url: str) -> None:
    assert push_url_problem(url, private_allowed=False) is None


@pytest.mark.parametrize("url", PRIVATE)
def test_a_private_address_is_taken_in_a_sandbox_only(url: str) -> None:
    assert "private network" in (push_url_problem(url, private_allowed=False) or "")
    assert push_url_problem(url, private_allowed=True) is None


@pytest.mark.parametrize("url", NEVER)
def test_what_is_no_address_of_a_receiver_is_refused_everywhere(url: str) -> None:
    assert push_url_problem(url, private_allowed=False)
    assert push_url_problem(url, private_allowed=True)


@given(st.text("[]:%.-/@?1av", max_size=20))
def test_whatever_is_taken_can_be_called(text: str) -> None:
    url = f"https://{text}"
    if push_url_problem(url, private_allowed=True) is None:
        target_of(url, frozenset())


@given(st.text(max_size=60))
def test_any_text_gets_an_answer(text: str) -> None:
    for url in (text, f"https://{text}"):
        push_url_problem(url, private_allowed=False)
