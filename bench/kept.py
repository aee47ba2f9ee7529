"""The results page as a store: each bench's section says when it was measured, and stays until it is measured anew."""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

_SECTION: Final = re.compile(
    r"^## (.+?)\n\n(?:Measured on (\d{4}-\d{2}-\d{2})(?:, machine at (.+?))?\.\n\n)?```\n(.*?)\n```$",
    re.MULTILINE | re.DOTALL,
)
_WRITTEN: Final = re.compile(r"^Written by `make bench` on (\d{4}-\d{2}-\d{2})", re.MULTILINE)


class Section(msgspec.Struct, frozen=True):
    """What one bench said. date: ISO 8601. speed: of the machine before and after, in words; "" = nobody looked."""

    date: str
    output: str
    speed: str = ""

    @property
    def when(self) -> str:
        """When it was measured, and on how fast a machine."""
        return f"{self.date}, machine at {self.speed}" if self.speed else self.date

    @property
    def figures(self) -> dict[str, Any]:
        """The JSON object of the last line that holds one; {} = there is none."""
        lines = [line for line in self.output.splitlines() if line.startswith("{")]
        found = json.loads(lines[-1]) if lines else {}
        return found if isinstance(found, dict) else {}


def sections_of(page: str) -> dict[str, Section]:
    """The sections of a page by bench, in order."""
    written = _WRITTEN.search(page)
    whole = written.group(1) if written else ""
    return {name: Section(date or whole, output, speed) for name, date, speed, output in _SECTION.findall(page)}


def text_of(sections: Mapping[str, Section]) -> list[str]:
    """The lines of the sections."""
    lines = []
    for name, section in sections.items():
        lines += [f"## {name}", "", f"Measured on {section.when}.", "", "```", section.output, "```", ""]
    return lines
