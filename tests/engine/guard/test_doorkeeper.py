"""Who may ask the sidecar: no browser, no rebound name, nobody without the secret."""

import pytest

from engine.guard.doorkeeper import BROWSER, NO_SECRET, OTHER_HOST, WRONG_SECRET, Door, is_secret, loopback_hosts

SECRET = b"0123456789abcdef0123456789abcdef"
DOOR = Door(loopback_hosts(8462), SECRET)
HOST = (b"host", b"127.0.0.1:8462")
PROOF = (b"authorization", b"Bearer " + SECRET)


@pytest.mark.parametrize("host", [b"localhost:8462", b"LocalHost:8462", b"127.0.0.1:8462", b"[::1]:8462"])
def test_a_program_of_this_machine_comes_in(host: bytes) -> None:
    assert DOOR.refusal(((b"host", host), PROOF)) is None


@pytest.mark.parametrize(
    "host",
    [b"evil.example:8462", b"localhost", b"localhost:8461", b"localhost.evil.example:8462", b"127.0.0.2:8462", b""],
)
def test_another_name_is_a_rebound_one(host: bytes) -> None:
    assert DOOR.refusal(((b"host", host), PROOF)) is OTHER_HOST


def test_a_request_without_a_host_or_with_two_is_strange() -> None:
    assert DOOR.refusal((PROOF,)) is OTHER_HOST
    assert DOOR.refusal((HOST, HOST, PROOF)) is OTHER_HOST


@pytest.mark.parametrize(
    "field", [(b"origin", b"null"), (b"origin", b"http://localhost:8462"), (b"sec-fetch-site", b"none")]
)
@pytest.mark.parametrize("door", [DOOR, Door()])
def test_a_browser_stays_out(door: Door, field: tuple[bytes, bytes]) -> None:
    assert door.refusal((HOST, PROOF, field)) is BROWSER
    assert door.strange((HOST, field)) is BROWSER


def test_the_secret_is_asked_for() -> None:
    assert DOOR.refusal((HOST,)) is NO_SECRET
    assert DOOR.strange((HOST,)) is None


@pytest.mark.parametrize(
    "given",
    [
        b"Bearer " + SECRET[:-1],
        b"Bearer " + SECRET + b"0",
        b"Bearer",
        b"Bearer ",
        b"Basic " + SECRET,
        SECRET,
        b"Bearer " + SECRET + b" x",
        b"Bearer " + SECRET.upper(),
    ],
)
def test_another_secret_is_none(given: bytes) -> None:
    assert DOOR.refusal((HOST, (b"authorization", given))) is WRONG_SECRET


def test_two_secrets_are_none() -> None:
    assert DOOR.refusal((HOST, PROOF, PROOF)) is WRONG_SECRET


def test_the_scheme_is_written_as_one_likes() -> None:
    assert DOOR.refusal((HOST, (b"authorization", b"bearer  " + SECRET))) is None  # RFC 9110 section 11.1


def test_a_unix_socket_asks_for_neither_name_nor_secret() -> None:
    assert Door().refusal(((b"host", b"guard"),)) is None
    assert Door().refusal(()) is None


def test_https_own_port_may_be_left_out() -> None:
    assert b"localhost" in loopback_hosts(80)
    assert b"localhost" not in loopback_hosts(8080)


@pytest.mark.parametrize(
    ("text", "good"), [(SECRET, True), (SECRET[:-1], False), (SECRET + b"\n", False), (b" " * 40, False)]
)
def test_a_secret_is_long_and_fits_a_header(text: bytes, good: bool) -> None:
    assert is_secret(text) is good
