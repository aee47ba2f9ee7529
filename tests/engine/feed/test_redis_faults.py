"""Each error reply becomes the one fault that says what to do about it."""

import pytest

from engine.feed.redis_faults import (
    RedisFault,
    RedisLoading,
    RedisMoved,
    RedisNoScript,
    RedisReadOnly,
    RedisRefused,
    RedisUnavailable,
    fault_of_reply,
)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ("LOADING Redis is loading the dataset in memory", RedisLoading),
        ("READONLY You can't write against a read only replica.", RedisReadOnly),
        ("UNBLOCKED force unblock from blocking operation, instance state changed", RedisReadOnly),
        ("NOSCRIPT No matching script.", RedisNoScript),
        ("CLUSTERDOWN The cluster is down", RedisUnavailable),
        ("MASTERDOWN Link with MASTER is down", RedisUnavailable),
        ("TRYAGAIN Multiple keys request during rehashing of slot", RedisUnavailable),
        ("BUSY Redis is busy running a script.", RedisUnavailable),
        ("NOPERM No permissions to access a key", RedisRefused),
        ("OOM command not allowed when used memory > 'maxmemory'.", RedisRefused),
        ("ERR unknown command", RedisRefused),
        ("MOVED gibberish", RedisRefused),
        ("", RedisRefused),
    ],
)
def test_a_reply_has_its_fault(reply: str, kind: type[RedisFault]) -> None:
    assert type(fault_of_reply(reply)) is kind


@pytest.mark.parametrize(
    ("reply", "address"),
    [
        ("MOVED 3999 127.0.0.1:6381", ("127.0.0.1", 6381)),
        ("ASK 3999 ::1:6381", ("::1", 6381)),
        ("MOVED 3999 :6381", ("", 6381)),  # the same host, another port
    ],
)
def test_a_redirection_names_the_server(reply: str, address: tuple[str, int]) -> None:
    fault = fault_of_reply(reply)
    assert isinstance(fault, RedisMoved)
    assert (fault.host, fault.port) == address


def test_words_of_the_reply_stay_in_the_detail() -> None:
    fault = fault_of_reply("WRONGTYPE key 'mpan:1000000000012' holds the wrong kind of value")
    assert "mpan" not in fault.text
    assert "mpan" in fault.detail
