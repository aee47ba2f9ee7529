"""What most tests of the listener begin with: certificates, a client's connections, the issuer's published keys."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from admin.pki.keys import FileTokenSigner
from engine.listener.tls import Credentials
from engine.tokens.keys import JwkSet, PublishedKeys
from tests.support.mutual_tls import Authority, Dialler
from tests.support.pki import ISSUER, MakeToken


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def credentials(authority: Authority) -> Credentials:
    """The server's."""
    return authority.credentials()


@pytest.fixture(scope="module")
def client_files(authority: Authority) -> tuple[Path, Path]:
    """Certificate and key of an EDP."""
    return authority.issue("edp")


@pytest.fixture
async def dialler() -> AsyncIterator[Dialler]:
    dialler = Dialler()
    yield dialler
    dialler.close()


@pytest.fixture(scope="session")
def published(token_signer: FileTokenSigner) -> bytes:
    """The issuer's keys as the feed brings them."""
    return msgspec.json.encode(PublishedKeys(ISSUER, JwkSet((token_signer.public,))))


@pytest.fixture(scope="session")
def good(make_token: MakeToken) -> bytes:
    """A token that is as it should be."""
    return make_token().token
