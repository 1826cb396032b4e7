-- Everything that stands, for a board that is made anew. Each of these is copied out in binary form, whose rows are
-- as `storage/snapshot.py` says, column for column: no column may be NULL, and none of varying length but where
-- it says so. In no order: the board sorts.

-- name: counts
SELECT allocation.cell, count(*) AS allocations
FROM allocation
WHERE allocation.state = 'active'
GROUP BY allocation.cell
ORDER BY allocation.cell;

-- name: allocations
-- The first VN and PIN of each side are here, because few have more; a PIN has a 1 put before it, so that its
-- leading zeros count, and is 0 where there is none.
SELECT allocation.cell, allocation.id, tenant.tenant_no, allocation.version,
    coalesce(allocation.expires_at, 'infinity') AS expires_at,
    allocation.product = 'greenvn' AS is_greenvn, allocation.usage = 'twoway' AS is_twoway,
    allocation.a_listed_need_pin, allocation.b_listed_need_pin, allocation.common_pin, allocation.is_exclusive,
    coalesce(allocation.is_exclusive AND allocation.pin_failures >= allocation.pin_attempts_max, false) AS is_locked,
    allocation.record, allocation.custom_field IS NOT NULL AS has_custom_field,
    allocation.a_virtual_numbers[1] AS a_virtual_number, allocation.b_virtual_numbers[1] AS b_virtual_number,
    coalesce(('1' || allocation.a_pins[1])::integer, 0) AS a_pin,
    coalesce(('1' || allocation.b_pins[1])::integer, 0) AS b_pin
FROM allocation
JOIN tenant ON tenant.cell = allocation.cell AND tenant.id = allocation.tenant_id
WHERE allocation.state = 'active';

-- name: numbers
SELECT party_number.cell, party_number.allocation_id, party_number.side = 'b' AS is_b, party_number.list_position,
    party_number.number
FROM party_number
JOIN allocation ON allocation.cell = party_number.cell AND allocation.id = party_number.allocation_id
WHERE allocation.state = 'active' AND party_number.list_position IS NOT NULL;

-- name: further_virtual_numbers
-- Those behind the first of a side.
SELECT allocation.cell, allocation.id, further.is_b, further.list_position::smallint, further.number
FROM allocation
CROSS JOIN LATERAL (
    SELECT false AS is_b, place - 1 AS list_position, number
    FROM unnest(allocation.a_virtual_numbers) WITH ORDINALITY AS a (number, place)
    UNION ALL
    SELECT true, place - 1, number
    FROM unnest(allocation.b_virtual_numbers) WITH ORDINALITY AS b (number, place)
) AS further
WHERE allocation.state = 'active' AND further.list_position > 0
    AND (cardinality(allocation.a_virtual_numbers) > 1 OR cardinality(allocation.b_virtual_numbers) > 1);

-- name: further_pins
SELECT allocation.cell, allocation.id, further.is_b, further.list_position::smallint, ('1' || further.pin)::bigint
FROM allocation
CROSS JOIN LATERAL (
    SELECT false AS is_b, place - 1 AS list_position, pin
    FROM unnest(allocation.a_pins) WITH ORDINALITY AS a (pin, place)
    UNION ALL
    SELECT true, place - 1, pin
    FROM unnest(allocation.b_pins) WITH ORDINALITY AS b (pin, place)
) AS further
WHERE allocation.state = 'active' AND further.list_position > 0
    AND (cardinality(allocation.a_pins) > 1 OR cardinality(allocation.b_pins) > 1);

-- name: member_routes
-- One row for each VN that a member may call.
SELECT party_number.cell, party_number.allocation_id, party_number.side = 'b' AS is_b, party_number.number,
    party_number.joined_at, route.needs_pin, route.virtual_number
FROM party_number
JOIN allocation ON allocation.cell = party_number.cell AND allocation.id = party_number.allocation_id
JOIN route ON route.cell = party_number.cell AND route.allocation_id = party_number.allocation_id
    AND route.number = party_number.number
WHERE allocation.state = 'active' AND party_number.joined_at IS NOT NULL;

-- name: custom_fields
-- Of varying length: the text, as its bytes in UTF-8.
SELECT allocation.cell, allocation.id, convert_to(allocation.custom_field, 'UTF8')
FROM allocation
WHERE allocation.state = 'active' AND allocation.custom_field IS NOT NULL;
