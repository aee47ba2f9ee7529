"""The issuer's verification keys as the replica has them, read anew only when their bytes have changed."""

import contextlib

from engine.listener.callers import NotServing
from engine.replica.reader import View
from engine.tokens.keys import BadKeySet, KeySet


class IssuerKeys:
    """One per worker. issuer: whose tokens are taken."""

    def __init__(self, issuer: str) -> None:
        self._issuer = issuer
        self._raw: bytes | None = None
        self._keys: KeySet | None = None
        self._version = -1  # of the replica that the set was last compared with

    def current(self, view: View) -> KeySet:
        """The keys of this moment. Raises NotServing when the replica holds none that can be used."""
        version = view.moment.version
        if version == self._version and self._keys is not None:
            return self._keys
        raw = view.keys()
        if raw is not None and raw != self._raw:
            with contextlib.suppress(BadKeySet):  # then the set before it stays in use
                self._keys = KeySet.from_published(raw, self._issuer)
            self._raw = raw
        if raw is None or self._keys is None:
            raise NotServing("the replica holds no key set that can be used")
        self._version = version
        return self._keys
