"""The state diagram in the documents is the table in the code."""

from pathlib import Path

from engine.consent.states import TRANSITIONS

PAGE = Path(__file__).parents[3] / "docs/flows.md"


def test_the_page_shows_exactly_the_tables_transitions() -> None:
    section = PAGE.read_text().split("## States of a consent")[1].split("```")[1]
    shown = {tuple(line.replace("->", " ").split()) for line in section.strip().splitlines()}
    table = {
        (before.name.lower() if before else "(none)", event.value, after.name.lower())
        for before, row in TRANSITIONS.items()
        for event, after in row.items()
    }
    assert shown == table
