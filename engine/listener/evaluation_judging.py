"""Judging the items of a request for evaluations, in order, against one snapshot; what a claim must come before waits.

Pure but for the turns it gives to others: long batches let everybody else have theirs after each chunk, and what time
does not suffice for is answered "ask again".
"""

from collections.abc import Sequence
from typing import Final

import msgspec
import trio

from engine.consent.records import ConsentKey
from engine.decision.evaluations import (
    ASK_AGAIN,
    ASK_WITH_TOKEN,
    FLAWED,
    Question,
    Semantic,
    Verdict,
    ends_with,
    judge,
    quick_yes,
)
from engine.decision.questions import ClaimFirst, ClaimResult, Records
from engine.listener.evaluation_request import Item
from engine.listener.evaluation_snapshot import Bearer, Gathered, Snapshot

CHUNK: Final = 50  # items judged between two turns of everybody else


class Judged(msgspec.Struct):
    """How far a run has come. claims: what items wait for, by their index."""

    verdicts: list[Verdict] = []
    claims: dict[int, ClaimFirst] = {}
    ended: bool = False


def judge_some(
    items: Sequence[Item], semantic: Semantic, snapshot: Snapshot, gathered: Gathered | None, judged: Judged, stop: int
) -> None:
    """Judge on to an index, or to the item that ends the batch."""
    verdicts, bearers, under = judged.verdicts, snapshot.bearers, snapshot.under
    ends_early = semantic is not Semantic.EXECUTE_ALL
    for item in items[len(verdicts) : stop]:
        verdict: Verdict | ClaimFirst | None
        if type(item) is Question:
            bearer = bearers[item.token_id]
            known = bearer.standing if type(bearer) is Bearer else None
            verdict = None if known is None else quick_yes(item, known, under)
            if verdict is not None:
                pass
            elif type(bearer) is Bearer:
                records = bearer.records
                if gathered is not None:
                    records = _with_claim(records, gathered.claims.get(len(verdicts)))
                verdict = judge(item, bearer.token, records, under)
            else:
                verdict = ASK_WITH_TOKEN
        else:
            verdict = FLAWED[item]  # type: ignore[index] # mypy does not narrow by type()
        if type(verdict) is ClaimFirst:
            judged.claims[len(verdicts)] = verdict
            judged.ended = ends_early  # whether the next ones are judged at all hangs on it
            verdict = ASK_AGAIN
        verdicts.append(verdict)  # type: ignore[arg-type] # as above
        if ends_early and (judged.ended or ends_with(semantic, verdict)):  # type: ignore[arg-type] # as above
            judged.ended = True
            return


async def judge_all(
    items: Sequence[Item], semantic: Semantic, snapshot: Snapshot, gathered: Gathered, deadline: float
) -> Judged:
    """All items, in chunks. deadline: on trio's clock; items beyond it are to be asked again."""
    judged, count = Judged(), len(items)
    while not judged.ended and len(judged.verdicts) < count:
        if judged.verdicts:
            await trio.lowlevel.checkpoint()
            if trio.current_time() >= deadline:
                left = count - len(judged.verdicts) if semantic is Semantic.EXECUTE_ALL else 1
                judged.verdicts.extend([ASK_AGAIN] * left)
                break
        judge_some(items, semantic, snapshot, gathered, judged, len(judged.verdicts) + CHUNK)
    return judged


def _with_claim(records: Records, claimed: tuple[ConsentKey, ClaimResult] | None) -> Records:
    if claimed is None:
        return records
    return msgspec.structs.replace(records, claimed=claimed[0], claim=claimed[1])
