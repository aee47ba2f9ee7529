"""A node behind a TLS-ending proxy: a listener of its own in every worker, for pinned proxies only."""

import ssl
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from admin.cli.check_config import check_config
from engine.config import BadConfig
from tests.support.mutual_tls import Authority, thumbprint_of
from tests.support.nodes import Caller, Running, eventually

REAL_WORKER = ("engine.node.worker", "tests.support.node_children")
INVALID_CLIENT = b'{"error":"invalid_client"}'
TRY_LATER = b'{"error":"temporarily_unavailable"}'  # this node has no replica, so it cannot tell of known callers


class BehindProxy(Running):
    """A node whose settings name a proxy."""

    def settings(self, directory: Path, **settings: Any) -> str:
        certificate, key = self.files
        self.proxy_files = self.authority.issue("proxy")
        return (
            super().settings(directory, **settings)
            + f"""
[proxy-listener]
port = 0
pinned-thumbprints = ["{thumbprint_of(self.proxy_files[0]).hex(":")}"]
[proxy-listener.tls]
certificate-file = "{certificate}"
key-file = "{key}"
client-ca-file = "{self.authority.file}"
"""
        )


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[BehindProxy]:
    node = BehindProxy(tmp_path_factory.mktemp("node"), authority, {}, modules=REAL_WORKER, workers=1)
    try:
        node.wait_ready(workers=1)
        yield node
    finally:
        node.stop()


def introspect(port: int, context: ssl.SSLContext, forwarded: bytes = b"") -> tuple[int, bytes]:
    caller = Caller(port, context)
    try:
        head = b"POST /introspect HTTP/1.1\r\nHost: x\r\n" + forwarded
        form = b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 7\r\n\r\ntoken=x"
        caller.socket.sendall(head + form)
        return caller.receive()
    finally:
        caller.close()


def certificate_of(authority: Authority, name: str) -> bytes:
    der = ssl.PEM_cert_to_DER_cert(authority.issue(name)[0].read_text())
    return b"Client-Cert: :" + b64encode(der) + b":\r\n"


def proxy_port(node: Running) -> int:
    port: int = node.described()["ports"]["proxy"]
    return port


def test_the_pinned_proxy_is_heard(node: BehindProxy, authority: Authority) -> None:
    context = authority.client_context(node.proxy_files)
    assert introspect(proxy_port(node), context, certificate_of(authority, "edp")) == (503, TRY_LATER)


def test_a_request_without_a_certificate_has_no_client(node: BehindProxy, authority: Authority) -> None:
    assert introspect(proxy_port(node), authority.client_context(node.proxy_files)) == (400, INVALID_CLIENT)


def test_anybody_else_is_refused_on_the_proxys_port_and_logged(node: BehindProxy, authority: Authority) -> None:
    answer = introspect(proxy_port(node), node.client, certificate_of(authority, "edp"))
    assert answer == (401, INVALID_CLIENT)
    told = eventually(lambda: [line for line in node.events("security_event") if "not pinned" in line["detail"]])
    assert told[0]["kind"] == "bad_forwarded_certificate"


@pytest.mark.parametrize("pins", ["[]", '["ab:cd"]', '["nonsense"]'])
def test_pins_that_could_never_match_are_told_beforehand(node: BehindProxy, tmp_path: Path, pins: str) -> None:
    file = tmp_path / "node.toml"
    settings = node.config.read_text()
    pinned = settings.partition("pinned-thumbprints = ")[2].partition("\n")[0]
    file.write_text(settings.replace(pinned, pins))
    with pytest.raises(BadConfig, match="pinned-thumbprints"):
        check_config(file)


def test_the_settings_are_good(node: BehindProxy, capsys: pytest.CaptureFixture[str]) -> None:
    check_config(node.config)
    assert "good" in capsys.readouterr().out
