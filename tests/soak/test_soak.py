"""Hundreds of clients that come, stall, vanish and send nonsense, over both fronts, while models come and go.

``make test`` runs this for some seconds, ``make soak`` for minutes and with several workers; see ``SoakOptions``.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from soak.coverage import ENDINGS, missing
from soak.ledger import CUT, GAVE_UP, LEFT
from soak.options import SoakOptions, narrow_settings
from soak.resources import access_codes, log_records
from soak.run import VISITS, Soak
from support.metrics import scrape, value
from support.server import running_server

OPTIONS = SoakOptions.from_environment()
MIB = 1 << 20
# What a process may have kept although nothing is lost: freed memory in the allocator's arenas. Measured: 5 to 10 MiB
# in the short form, 25 to 50 in four minutes with 250 clients. All that the server keeps for itself is
# there after the warm-up. A tile is 256 KiB; the short form sends some 2,000 of them and the long one tens of
# thousands, so that to lose one in fifteen, or in some hundreds, is beyond this.
MEMORY_SPARE = (32 if OPTIONS.seconds < 60 else 64) * MIB
# Pools (asyncio's default executor, gRPC's) make a thread when all they have are busy, and keep it.
THREADS_SPARE = 8
CUT_BY_SERVER = [["reader_stalled"], ["deadline_exceeded"]]

pytestmark = pytest.mark.timeout(OPTIONS.seconds + 900)


@pytest.fixture(scope="module", params=OPTIONS.workers, ids=lambda workers: f"workers-{workers}")
def soak(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Soak]:
    folder = tmp_path_factory.mktemp("soak")
    with running_server(folder / "data", workers=request.param, **narrow_settings()) as server:
        soak = Soak(server, OPTIONS)
        soak.run()
        print(soak.summary())  # noqa: T201  (make soak shows it)
        yield soak


def test_nothing_happened_that_must_not(soak: Soak) -> None:
    assert not soak.ledger.failures, soak.summary()


def test_everything_happened(soak: Soak) -> None:
    assert set(ENDINGS) == {visit.__name__ for visit in VISITS}
    assert not missing(soak.ledger), soak.summary()


def test_the_server_tells_of_each_request_what_its_client_saw(soak: Soak) -> None:
    codes = access_codes(soak.server)
    found = ((request_id, ending, codes.get(request_id, [])) for request_id, ending in soak.ledger.seen.items())
    assert not [one for one in found if not agree(*one[1:])], soak.summary()


def agree(ending: str, told: list[str]) -> bool:
    """Whether these codes in the access log, one for each line, are of a request that ended so for its client."""
    if ending == GAVE_UP:
        return len(told) <= 1
    if ending == LEFT:
        return len(told) == 1
    return told in (CUT_BY_SERVER if ending == CUT else [[ending]])


def test_the_log_has_no_error_and_no_traceback(soak: Soak) -> None:
    wrong = [record for record in log_records(soak.server) if record["level"] in ("ERROR", "CRITICAL")]
    assert not wrong, soak.summary()
    assert "Traceback" not in soak.server.log.read_text()


def test_factors_were_kept_and_given_up_and_no_code_was_unknown(soak: Soak) -> None:
    samples = scrape(soak.server)
    for event in ("builds", "hits", "evictions"):
        assert value(samples, f"factor_{event}_total", store="T") > 0, event
    codes = {dict(labels)["code"] for name, labels in samples if name == "weightloom_requests_total"}
    assert not codes & {"other", "internal"}


def test_memory_threads_and_descriptors_are_back_where_they_were(soak: Soak) -> None:
    before, after = soak.before, soak.after
    assert before is not None
    assert after is not None
    workers = len(soak.server.workers())
    assert after.memory - before.memory < MEMORY_SPARE * workers, soak.summary()
    assert after.threads - before.threads <= THREADS_SPARE * workers, soak.summary()
    assert after.descriptors <= before.descriptors, soak.summary()
