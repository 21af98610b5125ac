"""``registry_url``: what it says, and what of it may be told to people and logs."""

from __future__ import annotations

import psycopg
from psycopg.conninfo import conninfo_to_dict

from weightloom.errors import Unavailable

__all__ = ["CONNECT_SECONDS", "name_of", "parameters_of"]

CONNECT_SECONDS = 2  # for each address; libpq knows no shorter time
DEFAULTS = {
    "connect_timeout": str(CONNECT_SECONDS),
    "application_name": "weightloom",
    "keepalives_idle": "10",  # a database that vanished without a word is noticed within half a minute,
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",  # and one that does not even confirm what it is sent, in milliseconds
}
UNREADABLE = (
    "the setting registry_url is no URL of a PostgreSQL database: postgresql://user:password@host:port/database, "
    "where special characters in the password are written as %XX"
)


def parameters_of(url: str) -> dict[str, str]:
    """What to connect with: the URL's own parameters win over ours. Raises Unavailable, which does not repeat it."""
    try:
        given = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    except psycopg.Error:
        raise Unavailable(UNREADABLE) from None  # libpq's message may have a part of the password
    ports = given.get("port", "").replace(",", "")
    if "@" in given.get("host", "") + given.get("dbname", "") or not (ports.isdigit() or not ports):
        raise Unavailable(UNREADABLE)  # part of the password was taken for something that is told
    return DEFAULTS | given | {"client_encoding": "UTF8"}


def name_of(parameters: dict[str, str]) -> str:
    """The database's name for people: without user and password."""
    host, port = parameters.get("host", "localhost"), parameters.get("port")
    return f"postgresql://{host}{f':{port}' if port else ''}/{parameters.get('dbname', '')}"
