"""What must have happened in a soak, so that it cannot pass by doing nothing."""

from __future__ import annotations

from soak.forms import REST_FORMS, RPC_FORMS
from soak.ledger import CUT, GAVE_UP, LEFT, OK, Ledger
from soak.menu import INLINE, KEPT, SELECTIONS, VOLATILE
from soak.rest_nonsense import REST_WRONG
from soak.rpc_nonsense import RPC_WRONG, UNREAD
from weightloom.fabric import DType

__all__ = ["ENDINGS", "missing"]

ENDINGS: dict[str, set[str]] = {
    "fetch": {OK},
    "stay": {OK},
    "read_slowly": {OK},
    "stall": {CUT},
    "vanish": {LEFT},
    "resume": {LEFT},
    "hurry": {"deadline_exceeded"},
    "crowd": {"too_many_requests", "deadline_exceeded", LEFT},
    "hoard": {"too_many_bytes", LEFT},
    "break_off": {LEFT},
    "ask_again": {OK},
    "talk_nonsense": {wrong.code for wrong in REST_WRONG},
    "talk_rubbish": {"status 400"},
    "register": {OK},
    "warm_or_unload": {OK},
    "delete": {OK},
    "look": {OK},
    "rpc_fetch": {OK},
    "rpc_together": {OK},
    "rpc_read_slowly": {OK},
    "rpc_stall": {"reader_stalled"},
    "rpc_vanish": {LEFT},
    "rpc_resume": {LEFT},
    "rpc_hurry": {GAVE_UP},
    "rpc_nonsense": {UNREAD.name, *(code for code, _ in RPC_WRONG)},
    "rpc_keep": {OK},
}
FEATURES: dict[str, set[str]] = {
    "form": {*REST_FORMS, *RPC_FORMS, "json-resumed", "grpc-resumed"},
    "model": {model.kind for model in (*KEPT, *VOLATILE, *INLINE)},
    "selection": set(SELECTIONS),
    "dtype": {dtype.value for dtype in DType},
}


def missing(ledger: Ledger) -> list[str]:
    """Endings of behaviours and features of completions that did not occur."""
    ends = [(who, one) for who, endings in ENDINGS.items() for one in sorted(endings)]
    made = [(name, one) for name, values in FEATURES.items() for one in sorted(values)]
    lacking = [f"{who}: {one}" for who, one in ends if not ledger.endings[who, one]]
    return lacking + [f"made {name}={one}" for name, one in made if not ledger.made[name, one]]
