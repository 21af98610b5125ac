"""Hundreds of clients that come, stall, vanish and send nonsense, over both fronts, while models come and go.

``make test`` runs this for some seconds, ``make soak`` for minutes and with several workers; see ``SoakOptions``.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from soak.codes import REST_TABLE
from soak.forms import REST_FORMS, RPC_FORMS
from soak.ledger import CUT, LEFT, OK
from soak.menu import INLINE, KEPT, SELECTIONS, VOLATILE
from soak.options import SoakOptions, narrow_settings
from soak.resources import access_lines, log_records
from soak.rest_nonsense import REST_WRONG
from soak.rpc_nonsense import RPC_WRONG
from soak.run import VISITS, Soak
from support.metrics import scrape, value
from support.server import running_server
from weightloom.fabric import DType

OPTIONS = SoakOptions.from_environment()
MIB = 1 << 20
# What may differ after a soak though nothing is lost: the allocator keeps freed memory in its arenas, one for each
# thread, and so much of it depends on what ran at the same time; the layouts, plans and P, Q, S of the same few models
# are there since the warm-up. A leak of a single tile (256 KiB) in a hundred requests would be well beyond it.
MEMORY_SPARE = 48 * MIB

pytestmark = pytest.mark.timeout(OPTIONS.seconds + 300)


@pytest.fixture(scope="module", params=OPTIONS.workers, ids=lambda workers: f"workers-{workers}")
def soak(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Soak]:
    folder = tmp_path_factory.mktemp("soak")
    with running_server(folder / "data", workers=request.param, **narrow_settings()) as server:
        soak = Soak(server, OPTIONS)
        soak.run()
        print(f"SOAK_SEED={OPTIONS.seed}\n{soak.ledger.summary()}\n{soak.before}\n{soak.after}")  # noqa: T201
        yield soak


def test_nothing_happened_that_must_not(soak: Soak) -> None:
    assert not soak.ledger.failures, f"SOAK_SEED={OPTIONS.seed}\n{soak.ledger.summary()}"
