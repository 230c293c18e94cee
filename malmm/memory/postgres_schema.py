"""Tables of the long-term memory in PostgreSQL, and every way in which a server or a database cannot be used.

The tables lie in the first schema of the connection's search path (`public`, unless the URL or the role says
otherwise), so that one database may hold several stores:

    memory_metadata   one row: schema version, width and identity of the encoder
    memory_users      a user's number and how many records he has been allotted
    memory_records    records with their vectors; id = number << 32 | sequence, so that a user is a range
    memory_counters   what every recall changes, apart from the rows that are wide
    memory_merged     records as they were before they were merged into another
    memory_media      copies of files by the sha256 of their bytes
"""

from collections.abc import Mapping
from typing import Any

from psycopg import Connection, errors

from malmm.errors import InputError
from malmm.memory.checks import check_identity, encode_identity
from malmm.memory.postgres_connection import connect, place, reason_of

SCHEMA_VERSION = 1
CREATION_LOCK = 0x6D616C6D  # any number: who makes the tables holds this lock, who comes second waits

# The vectors stay in the rows (toast_tuple_target), or a scan would fetch each from a table beside it. They
# have no index: HNSW orders by cosine alone, and its first hundred often lack the best of the combined score.
# A counter has room beside it for its next version (fillfactor), which spares its index.
TABLES = """
CREATE TABLE memory_metadata (schema_version integer NOT NULL, width integer NOT NULL, encoder json NOT NULL);
CREATE TABLE memory_users (
    number integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    allotted bigint NOT NULL DEFAULT 0
);
CREATE TABLE memory_media (sha256 text PRIMARY KEY, data bytea STORAGE EXTERNAL NOT NULL);
CREATE TABLE memory_records (
    id bigint PRIMARY KEY,
    text text NOT NULL,
    words tsvector NOT NULL,
    embedding halfvec({width}) NOT NULL,
    modality text NOT NULL,
    role text NOT NULL,
    conversation text NOT NULL,
    turn integer,
    media_path text,
    media_sha256 text,
    media_copy text REFERENCES memory_media,
    created double precision NOT NULL,
    saliency double precision NOT NULL,
    pinned boolean NOT NULL,
    size integer NOT NULL DEFAULT 1
) WITH (toast_tuple_target = 8160);
CREATE TABLE memory_counters (
    id bigint PRIMARY KEY REFERENCES memory_records ON DELETE CASCADE,
    accessed double precision NOT NULL,
    access_count bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 70);
CREATE TABLE memory_merged (
    into_id bigint NOT NULL REFERENCES memory_records ON DELETE CASCADE,
    LIKE memory_records,
    accessed double precision NOT NULL,
    access_count bigint NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY (media_copy) REFERENCES memory_media
);
CREATE INDEX ON memory_records ((id >> 32), created, id);
CREATE INDEX ON memory_merged (into_id);
CREATE INDEX ON memory_records (media_copy) WHERE media_copy IS NOT NULL;
CREATE INDEX ON memory_merged (media_copy) WHERE media_copy IS NOT NULL;
ALTER TABLE memory_records CLUSTER ON memory_records_pkey;
"""


def prepare(url: str, width: int, encoder: Mapping[str, Any]) -> None:
    """Make the tables, or see that those which are there are for this width and this encoder.

    Raises InputError where they are not, and where they cannot be made.
    """
    where = place(url)
    with connect(url) as connection:
        try:
            if not _has_tables(connection):
                connection.execute("SELECT pg_advisory_xact_lock(%s)", [CREATION_LOCK])
                _ensure_vectors(connection, where)
                if not _has_tables(connection):
                    _create(connection, width, encoder)
            _check(connection, width, encoder, where)
        except (
            errors.InsufficientPrivilege,
            errors.InvalidSchemaName,
            errors.ReadOnlySqlTransaction,
        ) as error:
            raise InputError(
                f"the memory's tables cannot be made or read in {where} ({reason_of(error)}): let the "
                "database's owner grant it, or name a database of your own"
            ) from error


def _has_tables(connection: "Connection[Any]") -> bool:
    """Whether a store is in the first schema of the search path; one in a later schema is another store."""
    query = "SELECT to_regclass(quote_ident(current_schema()) || '.memory_metadata') IS NOT NULL"
    row = connection.execute(query).fetchone()
    return row is not None and row[0] is True


def _ensure_vectors(connection: "Connection[Any]", where: str) -> None:
    """See that the database has pgvector's half-precision vectors, and create the extension if it may be."""
    query = "SELECT to_regtype('vector') IS NOT NULL, to_regtype('halfvec') IS NOT NULL"
    row = connection.execute(query).fetchone()
    if row == (True, True):
        return
    if row == (True, False):
        raise InputError(
            f"pgvector of {where} is older than 0.7: update it on the server, then run "
            "`ALTER EXTENSION vector UPDATE` in that database"
        )
    try:
        connection.execute("CREATE EXTENSION vector")
    except errors.InsufficientPrivilege:
        raise InputError(
            f"{where} has no pgvector and you may not create it: let an administrator of the server run "
            "`CREATE EXTENSION vector` in that database"
        ) from None
    except (errors.FeatureNotSupported, errors.UndefinedFile):
        raise InputError(
            f"the server of {where} has no pgvector: install it there (Debian: postgresql-NN-pgvector), or "
            "name another server"
        ) from None
    except errors.DuplicateObject:
        raise InputError(
            f"pgvector of {where} lies in a schema that is not searched: put that schema on the role's "
            "search_path"
        ) from None


def _create(connection: "Connection[Any]", width: int, encoder: Mapping[str, Any]) -> None:
    connection.execute(TABLES.format(width=width))
    connection.execute(
        "INSERT INTO memory_metadata VALUES (%s, %s, %s)", [SCHEMA_VERSION, width, encode_identity(encoder)]
    )


def _check(connection: "Connection[Any]", width: int, encoder: Mapping[str, Any], where: str) -> None:
    """Raise InputError unless the tables have this version's layout, this width and this encoder."""
    row = connection.execute("SELECT schema_version, width, encoder::text FROM memory_metadata").fetchone()
    if row is None:
        raise InputError(f"the memory in {where} has lost its metadata: restore it from a backup")
    version, its_width, its_encoder = row
    if version != SCHEMA_VERSION:
        raise InputError(
            f"the memory in {where} has schema version {version}, this program reads {SCHEMA_VERSION}: "
            "use the version that made it, or name another database"
        )
    check_identity(f"in {where}", its_width, its_encoder, width, encoder)
