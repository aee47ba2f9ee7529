"""Names for calls and for evidence: never the same twice, in no process and after no restart."""

import secrets


class Names:
    """A prefix drawn at the start, and a number."""

    def __init__(self) -> None:
        self._prefix = secrets.token_urlsafe(12)
        self._count = 0

    def draw(self) -> bytes:
        """The next one, as it stands in `X-Request-ID`."""
        return self.text().encode()

    def text(self) -> str:
        """The next one."""
        self._count += 1
        return f"{self._prefix}.{self._count}"
