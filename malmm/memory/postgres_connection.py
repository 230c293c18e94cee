"""Connections to PostgreSQL: transactions that are durable when they end, and errors in a sentence.

No sentence ever holds a password.
"""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import psycopg
from pgvector.psycopg import register_vector
from psycopg import Connection, Cursor, errors
from psycopg.abc import Buffer
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.string import StrDumperUnknown
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from malmm.errors import InputError

CONNECTIONS = 8  # at once, of one process
CONNECT_SECONDS = 10
WAIT_SECONDS = 5  # for a connection to be free, and for a server that starts anew
SETTINGS = {
    "synchronous_commit": "on",  # whatever the server's default: what was acknowledged is on its disk
    "plan_cache_mode": "force_custom_plan",  # one plan for all users guesses how many records a user has
    "jit": "off",  # compiling takes longer than any of these queries
}

# What the pool logs of a lost server is said by InputError; a program that configures logging has it too.
logging.getLogger("psycopg.pool").addHandler(logging.NullHandler())


def place(url: str) -> str:
    """Where a URL leads, for messages. Raises InputError for what is no such URL."""
    try:
        parts = conninfo_to_dict(url)
    except psycopg.ProgrammingError:  # its text may quote the password
        raise InputError(
            "the store's URL cannot be read: write postgresql://user:password@host:port/database, "
            "with special characters percent-encoded"
        ) from None
    name = parts.get("dbname") or parts.get("user") or "of the user's name"
    return f"database {name} on {parts.get('host') or 'this machine'}"


def connect(url: str) -> "Connection[Any]":
    """A connection. Raises InputError where the server is out of reach, refuses, or has no such database."""
    where = place(url)
    parts = conninfo_to_dict(url)
    try:
        return psycopg.connect(url, connect_timeout=int(parts.get("connect_timeout") or CONNECT_SECONDS))
    except psycopg.OperationalError as error:
        reason = reason_of(error)
    if password := parts.get("password"):
        reason = reason.replace(str(password), "***")
    if f'database "{parts.get("dbname")}" does not exist' in reason:
        raise InputError(
            f"there is no {where}: make it with `createdb {parts['dbname']}`, or correct the URL"
        )
    raise InputError(
        f"cannot connect to {where} ({reason}): see that PostgreSQL runs there, and that user and password "
        "are right"
    )


def reason_of(error: psycopg.Error) -> str:
    """What PostgreSQL says of an error, in one line."""
    line = next(iter((error.diag.message_primary or str(error)).strip().splitlines()), type(error).__name__)
    return line.removeprefix("connection failed: ").removeprefix("connection is bad: ")


class EscapingDumper(StrDumperUnknown):
    """Text; what PostgreSQL cannot keep (NUL, half a surrogate pair) as the escape that Python has for it."""

    def dump(self, obj: str) -> Buffer | None:
        """The bytes that are sent."""
        return obj.encode("utf-8", "backslashreplace").replace(b"\0", b"\\x00")


class Connections:
    """A few connections to one database that the threads of this process share.

    A connection that was lost, say because the server started anew, is replaced when it is next needed.
    """

    def __init__(self, url: str) -> None:
        """Connect nothing yet. The database has to have pgvector by the first transaction."""
        self._url = url
        self._pool = ConnectionPool(
            url,
            kwargs={"connect_timeout": CONNECT_SECONDS},
            min_size=0,
            max_size=CONNECTIONS,
            timeout=WAIT_SECONDS,
            reconnect_timeout=WAIT_SECONDS,
            num_workers=1,
            configure=_configure,
            check=ConnectionPool.check_connection,
            open=True,
        )

    @contextlib.contextmanager
    def transaction(self) -> "Iterator[Cursor[Any]]":
        """A transaction that is durable when the block ends, and of which nothing remains if it fails.

        Raises InputError where the server is lost, refuses, or is out of space.
        """
        try:
            with self._pool.connection() as connection, connection.cursor(binary=True) as cursor:
                yield cursor
        except PoolClosed:
            raise
        except PoolTimeout as error:
            connect(self._url).close()  # raises with the reason, if there is one
            raise InputError(f"all connections to {place(self._url)} are at work: try again") from error
        except (
            psycopg.OperationalError,
            errors.InsufficientPrivilege,
            errors.ReadOnlySqlTransaction,
            errors.UndefinedTable,
        ) as error:
            raise InputError(
                f"{place(self._url)} did not do what was asked ({reason_of(error)}): see to the server, then "
                "try again"
            ) from error

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()


def _configure(connection: "Connection[Any]") -> None:
    names, values = list(SETTINGS), list(SETTINGS.values())
    query = "SELECT set_config(name, value, false) FROM unnest(%s::text[], %s::text[]) AS s (name, value)"
    connection.execute(query, [names, values])
    register_vector(connection)
    connection.adapters.register_dumper(str, EscapingDumper)
    connection.commit()
