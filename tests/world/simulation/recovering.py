"""After a restore: an ATP tells what was taken back through it, nodes tell by themselves, an operator goes live."""

import hashlib
from typing import TYPE_CHECKING

import trio

from admin.ledger.events import Act, Change, Initiator, Route
from admin.ledger.store import Idempotency
from admin.recovery.service import NotRecovering
from admin.recovery.tellings import Report, Teller, Telling
from engine.clock import UnixTime
from engine.errors import Fault
from tests.world.simulation.template import ATP, SETTLED
from tests.world.simulation.wires import Lost, call
from tests.world.simulation.writes import Outcome

if TYPE_CHECKING:
    from tests.world.simulation.world import World

PATIENCE = 4.0  # seconds for one call
TELLS = 0.6  # of the recoveries: the ATP tells; in the others the operator goes live without it


class Operator:
    """Whoever sees one restore through, with the ATP at the telephone."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._incarnation = world.store.history.position.incarnation

    async def let_live(self) -> None:
        """Until the ledger is live, or was restored once more."""
        world = self._world
        world.trying += 1
        world.tell(f"the ledger recovers as {self._incarnation[-2:]}")
        await trio.sleep(world.random.uniform(0.2, 1.0))
        if world.random.random() < TELLS:
            await self._have_atp_tell()
        await trio.sleep(world.random.uniform(0.0, 1.5))  # nodes tell as soon as they hear of it
        attempt = 0
        while self._under_way and not await self._go_live(attempt):
            attempt += 1
            await trio.sleep(0.3)
        world.trying -= 1

    @property
    def _under_way(self) -> bool:
        history = self._world.store.history
        return history.position.incarnation == self._incarnation and history.recovering is not None

    async def _have_atp_tell(self) -> None:
        """Every revocation that was acknowledged to it, once or several times until the ledger has taken it."""
        world = self._world
        done = [write for write in world.writes if write.kind == "revoke" and write.outcome is Outcome.DONE]
        at = UnixTime(world.admin_clock.now())
        teller = Teller(ATP.client_id, ATP.role, at)
        tellings = tuple(
            Telling(one.consent_id, Change.REVOKED, at, one.key.key, parties=(ATP.client_id,)) for one in done
        )
        key = _key(f"told-{self._incarnation}")
        while self._under_way:
            try:
                await self._call("tell", Report(SETTLED, complete=True, tellings=tellings), teller, key)
            except (Lost, Fault) as fault:
                world.tell(f"the ATP cannot tell: {fault!r}")
                await trio.sleep(0.2)
            else:
                if self._under_way:
                    world.checker.told = [one.consent_key for one in done]
                world.count("recovery: told by an ATP")
                return

    async def _go_live(self, attempt: int) -> bool:
        """Whether it is live. What stands against it may change meanwhile; then it is read anew."""
        world = self._world
        act = Act(Initiator.OPERATOR, "operator-1", Route.CONSOLE, UnixTime(world.admin_clock.now()), "checked")
        try:
            without = await self._call("let_live", act, _key(f"live-{self._incarnation}-{attempt}"))
        except NotRecovering:  # an attempt before this one was done, and its answer lost
            return True
        except (Lost, Fault) as fault:
            world.tell(f"the ledger cannot go live: {fault!r}")
            return False
        is_missed = any(machine.node_id in without for machine in world.machines)
        world.count(f"recovery: live {'without a node that is up' if is_missed else 'with all nodes that are up'}")
        world.tell(f"the ledger went live without {', '.join(without) or 'nobody'}")
        return True

    async def _call(self, name: str, *args: object) -> tuple[str, ...]:
        world = self._world
        admin, wire = world.any_admin(), world.consumer_wire
        if admin is None:
            await world.nobody_there(wire)
            raise Lost
        method = admin.let_live if name == "let_live" else admin.recovery.take
        return await call(wire, admin.process, method, *args, patience=PATIENCE)  # type: ignore[arg-type,return-value] # one of two


def _key(name: str) -> Idempotency:
    return Idempotency("operator-1", name, hashlib.sha256(name.encode()).digest())
