"""What a dump would tell: every column of every table is searched, those of tables made later too."""

from __future__ import annotations

from cordboard.routing.numbers import E164
from cordboard.routing.progress import digest_of
from cordboard.storage.database import Connection, Database

# Whatever might hold a number or a PIN; times, flags and uuids cannot.
_SEARCHED = ("text", "character varying", "bigint", "integer", "numeric", "json", "jsonb", "ARRAY", "bytea")


async def traces(database: Database, cell: int, *told: E164 | str) -> set[tuple[str, str]]:
    """(table, column) where one of these is found in this cell, PINs (which should be long) by digest too."""
    texts = [needle.plus[1:] if isinstance(needle, E164) else needle for needle in told]
    digests = [digest_of(needle) for needle in told if not isinstance(needle, E164)]

    async def search(connection: Connection) -> set[tuple[str, str]]:
        columns: dict[str, list[tuple[str, str]]] = {}
        for row in await connection.fetch(
            "SELECT table_name, column_name, data_type FROM information_schema.columns"
            " WHERE table_schema = 'public'"
        ):
            columns.setdefault(row["table_name"], []).append((row["column_name"], row["data_type"]))
        found = set()
        for table, named in columns.items():
            where = "cell = $1" if ("cell", "smallint") in named else "$1::integer IS NOT NULL"
            for column, type in named:
                if type not in _SEARCHED:
                    continue
                text = f"encode({column}, 'escape')" if type == "bytea" else f"{column}::text"
                is_digest = f"{column} = ANY($3::bytea[])" if type == "bytea" else "$3::bytea[] IS NULL"
                query = (
                    f"SELECT count(*) FROM {table} WHERE {where} AND ({is_digest}"  # noqa: S608 - of the schema.
                    f" OR EXISTS (SELECT 1 FROM unnest($2::text[]) AS told WHERE strpos({text}, told) > 0))"
                )
                if await connection.fetchval(query, cell, texts, digests):
                    found.add((table, column))
        return found

    return await database.read(search)
