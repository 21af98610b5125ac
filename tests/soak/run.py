"""A soak from beginning to end: who comes when, and what is looked at before and after."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import astuple, dataclass, field
from random import Random
from typing import Any
from urllib.parse import urlparse

from soak.coverage import missing
from soak.forms import HttpRequest, registration
from soak.keepers import KEEPER_VISITS, residency_request
from soak.ledger import Ledger
from soak.menu import KEPT, VOLATILE, Menu
from soak.options import SoakOptions
from soak.resources import Footprint, footprint, unrest
from soak.rest_nonsense import REST_NONSENSE_VISITS
from soak.rest_visits import REST_VISITS
from soak.rpc_nonsense import RPC_KEEPER_VISITS, RPC_NONSENSE_VISITS
from soak.rpc_visits import RPC_VISITS
from soak.visitor import Visitor
from support.server import Server

__all__ = ["VISITS", "Soak"]

Visit = Callable[[Visitor], Awaitable[None]]

VISITS: dict[Visit, int] = (
    REST_VISITS | REST_NONSENSE_VISITS | KEEPER_VISITS | RPC_VISITS | RPC_NONSENSE_VISITS | RPC_KEEPER_VISITS
)
LONGEST_VISIT_SECONDS = 300.0
ARRIVAL_SECONDS = 1.0
REST_SECONDS = 120.0  # within which everything must have come to rest
MORE_SECONDS = 120.0
SAMPLES, SAMPLE_SECONDS = 10, 0.1


@dataclass
class Soak:
    """before, after: at rest, and with nothing resident; the warm-up lies before both. ledger: of warm-up and soak."""

    server: Server
    options: SoakOptions
    ledger: Ledger = field(default_factory=Ledger)
    before: Footprint | None = None
    after: Footprint | None = None

    def run(self) -> None:
        """All of it: it takes the warm-up, the seconds that were asked for, and some more to come to rest."""
        self._menu = Menu(Random(self.options.seed))
        for model in KEPT:
            assert self._request(registration(model)).status == 201
        self._phase("warm-up", self.options.warm_up_seconds)
        self.before = self._come_to_rest()
        self._phase("soak", self.options.seconds)
        self.after = self._come_to_rest(self.before)

    def summary(self) -> str:
        """What happened, and how to have it again."""
        lacking = [f"  MISSING: {one}" for one in missing(self.ledger)]
        found = f"SOAK_SEED={self.options.seed}: before {self.before}, after {self.after}"
        return "\n".join([found, self.ledger.summary(), *lacking])

    def _phase(self, name: str, seconds: float) -> None:
        for model in KEPT:
            assert self._request(residency_request(model.name, model.residency)).status == 200
        asyncio.run(self._populate(name, seconds))

    async def _populate(self, name: str, seconds: float) -> None:
        ends = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for number in range(self.options.clients):
                group.create_task(self._live(f"{name}-{number}", number, ends))

    async def _live(self, name: str, number: int, ends: float) -> None:
        """Visit again and again. The first visits go through all behaviours in turn, so that each has its time."""
        rng, behaviours = Random(f"{self.options.seed}/{name}"), list(VISITS)
        address = urlparse(self.server.url)
        visitor = Visitor(
            name, rng, self._menu, self.ledger, (address.hostname or "", address.port or 0), self.server.grpc_target
        )
        visit = behaviours[number % len(behaviours)]
        await asyncio.sleep(rng.uniform(0, ARRIVAL_SECONDS))
        while time.monotonic() < ends or self._lacks(ends):
            await self._pay(visitor, visit)
            (visit,) = rng.choices(behaviours, list(VISITS.values()))

    def _lacks(self, ends: float) -> bool:
        """On a slow machine it takes longer until everything has happened."""
        return time.monotonic() < ends + MORE_SECONDS and bool(missing(self.ledger))

    async def _pay(self, visitor: Visitor, visit: Visit) -> None:
        visitor.behaviour = visit.__name__
        try:
            async with asyncio.timeout(LONGEST_VISIT_SECONDS):
                await visit(visitor)
        except Exception as error:
            self.ledger.fail(f"{visitor}: {error!r}")

    def _come_to_rest(self, no_more_than: Footprint | None = None) -> Footprint:
        """Unload everything, wait until all is at rest (and descriptors are back), and take the measure."""
        for model in (*KEPT, *VOLATILE):
            assert self._request(residency_request(model.name, "virtual")).status in (200, 404)
        ends, found = time.monotonic() + REST_SECONDS, None
        while time.monotonic() < ends:
            last, found = found, self._measure()
            if isinstance(found, Footprint) and _is_settled(found, no_more_than or last):
                return found
        text = f"the server does not come to rest: {found}, before {no_more_than}"
        raise AssertionError(f"{text}\n{self.summary()}")

    def _measure(self) -> Footprint | dict[str, float]:
        """The least of some samples, or what is not at rest in one of them."""
        samples = []
        for _ in range(SAMPLES):
            if left := unrest(self.server):
                return left
            samples.append(footprint(self.server))
            time.sleep(SAMPLE_SECONDS)
        return Footprint(*(min(values) for values in zip(*map(astuple, samples), strict=True)))

    def _request(self, request: HttpRequest) -> Any:
        return self.server.request(request.method, request.target, request.body, **dict(request.headers))


def _is_settled(found: Footprint, limit: Footprint | dict[str, float] | None) -> bool:
    return isinstance(limit, Footprint) and found.descriptors <= limit.descriptors
