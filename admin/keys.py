"""The secrets that the admin application holds, read once at start; a file that cannot be used is said then."""

import msgspec

from admin.authorization.metadata import key_set
from admin.config import AdminConfig
from admin.pki.key_files import load_secret
from admin.pki.keys import FileTokenSigner, TokenSigner
from engine.config import BadConfig
from engine.tokens.keys import JwkSet, PublishedKeys


class Secrets(msgspec.Struct, frozen=True):
    """token_signers: the first signs; mac: newest first; meter: 32 bytes."""

    issuer: str
    token_signers: tuple[TokenSigner, ...]
    mac: tuple[bytes, ...]
    meter: bytes

    @property
    def jwks(self) -> bytes:
        """The JWKS text."""
        return key_set([signer.public for signer in self.token_signers])

    @property
    def published(self) -> bytes:
        """The body of `GET /feed/keys`."""
        keys = JwkSet(tuple(signer.public for signer in self.token_signers))
        return msgspec.json.encode(PublishedKeys(self.issuer, keys))


def load_secrets(config: AdminConfig) -> Secrets:
    """Read every key file that the settings name. Raises BadKeyFile, BadConfig."""
    if not config.issuer.key_files or not config.feed.mac_key_files:
        raise BadConfig("issuer.key-files and feed.mac-key-files each name at least one file")
    return Secrets(
        issuer=config.issuer.issuer,
        token_signers=tuple(FileTokenSigner.load(path) for path in config.issuer.key_files),
        mac=tuple(load_secret(path) for path in config.feed.mac_key_files),
        meter=load_secret(config.feed.meter_key_file),
    )
