-- Allocations as the engine would have made them, straight into its tables: creating ten million over HTTP would
-- take hours. What allocation i is, `benchmarks/world.py` says.
-- Parameters: the cell, the tenant where one is named, the first i, the i behind the last, how many VNs there are.

-- name: virtual_number
INSERT INTO virtual_number (cell, number, tenant_id, region, type, created_at)
SELECT $1, 918000000000 + place, $2, 'KA', 'mobile', now()
FROM generate_series(0, $3::integer - 1) AS place;

-- name: allocation
INSERT INTO allocation (cell, id, tenant_id, product, client_id, generation, usage, state, version, a_virtual_numbers,
    b_virtual_numbers, a_pins, b_pins, a_listed_need_pin, b_listed_need_pin, common_pin, cool_off_s, is_exclusive,
    record, created_at, expires_at)
SELECT $1, md5('bench-' || i)::uuid, $2, 'greenpin', 'order-' || i, 1, 'twoway', 'active', 1,
    ARRAY[918000000000 + i % $5::integer], ARRAY[918000000000 + (i + 1) % $5::integer],
    ARRAY[lpad((i / $5::integer)::text, 6, '0')], ARRAY[(500000 + i / $5::integer)::text],
    false, true, false, 0, false, false, now(), now() + interval '30 days' + i % 100 * interval '1 hour'
FROM generate_series($3::integer, $4::integer - 1) AS i;

-- name: carried_allocation
INSERT INTO carried_allocation (cell, tenant_id, product, virtual_number, created_at, allocation_id)
SELECT $1, $2, 'greenpin', 918000000000 + (i + side.place) % $5::integer, now(), md5('bench-' || i)::uuid
FROM generate_series($3::integer, $4::integer - 1) AS i
CROSS JOIN generate_series(0, 1) AS side (place);

-- name: party_number
INSERT INTO party_number (cell, allocation_id, number, side, list_position, joined_at)
SELECT $1, md5('bench-' || i)::uuid, party.number, party.side, party.list_position,
    CASE WHEN party.list_position IS NULL THEN now() END
FROM generate_series($2::integer, $3::integer - 1) AS i
CROSS JOIN LATERAL (
    VALUES (919800000000 + 2 * i, 'a', 0::smallint), (919800000001 + 2 * i, 'a', 1::smallint),
        (919700000000 + 2 * i, 'b', 0::smallint), (919700000001 + 2 * i, 'b', 1::smallint),
        (919500000000 + i, 'a', NULL)
) AS party (number, side, list_position)
WHERE party.list_position IS NOT NULL OR i % 100 = 0;

-- name: vn_use
INSERT INTO vn_use (cell, virtual_number, allocation_id, is_exclusive, product)
SELECT $1, 918000000000 + (i + side.place) % $4::integer, md5('bench-' || i)::uuid, false, 'greenpin'
FROM generate_series($2::integer, $3::integer - 1) AS i
CROSS JOIN generate_series(0, 1) AS side (place);

-- name: caller_line
INSERT INTO caller_line (cell, virtual_number, number, needs_pin)
SELECT $1, 918000000000 + (i + party.place) % $4::integer, party.number, party.place = 1
FROM generate_series($2::integer, $3::integer - 1) AS i
CROSS JOIN LATERAL (
    VALUES (919800000000 + 2 * i, 0, true), (919800000001 + 2 * i, 0, true),
        (919700000000 + 2 * i, 1, true), (919700000001 + 2 * i, 1, true),
        (919500000000 + i, 0, false)
) AS party (number, place, is_listed)
WHERE party.is_listed OR i % 100 = 0;

-- name: route
INSERT INTO route (cell, virtual_number, number, allocation_id, side, needs_pin)
SELECT $1, 918000000000 + (i + party.place) % $4::integer, party.number, md5('bench-' || i)::uuid,
    CASE party.place WHEN 0 THEN 'a' ELSE 'b' END, party.place = 1
FROM generate_series($2::integer, $3::integer - 1) AS i
CROSS JOIN LATERAL (
    VALUES (919800000000 + 2 * i, 0, true), (919800000001 + 2 * i, 0, true),
        (919700000000 + 2 * i, 1, true), (919700000001 + 2 * i, 1, true),
        (919500000000 + i, 0, false)
) AS party (number, place, is_listed)
WHERE party.is_listed OR i % 100 = 0;

-- name: pin_claim
INSERT INTO pin_claim (cell, virtual_number, pin, allocation_id, side)
SELECT $1, 918000000000 + (i + side.place) % $4::integer,
    lpad((500000 * side.place + i / $4::integer)::text, 6, '0'), md5('bench-' || i)::uuid,
    CASE side.place WHEN 0 THEN 'a' ELSE 'b' END
FROM generate_series($2::integer, $3::integer - 1) AS i
CROSS JOIN generate_series(0, 1) AS side (place);

-- name: keys
-- How to take away and bring back the keys of these tables, and those that refer to them: first what must go first.
SELECT
    format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname) AS away,
    format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname, pg_get_constraintdef(oid)) AS back,
    contype = 'f' AS is_reference, conrelid::regclass::text AS table_name
FROM pg_constraint
WHERE contype IN ('p', 'u', 'f') AND (conrelid = ANY($1::text[]::regclass[]) OR confrelid = ANY($1::text[]::regclass[]))
ORDER BY contype = 'f' DESC, conname;

-- name: indexes
SELECT format('DROP INDEX %s', indexrelid::regclass) AS away, pg_get_indexdef(indexrelid) AS back,
    false AS is_reference, indrelid::regclass::text AS table_name
FROM pg_index
WHERE indrelid = ANY($1::text[]::regclass[])
    AND NOT EXISTS (SELECT 1 FROM pg_constraint WHERE pg_constraint.conindid = pg_index.indexrelid)
ORDER BY indexrelid;

-- name: size_bytes
SELECT sum(pg_total_relation_size(name::regclass))::bigint FROM unnest($1::text[]) AS name;
