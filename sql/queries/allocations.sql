-- name: keep_answers
-- An answer kept longer than its time makes way for another under the same key.
INSERT INTO idempotent_answer (cell, tenant_id, key, body_digest, allocation_id, answer, created_at)
SELECT $1, kept.tenant_id, kept.key, kept.body_digest, kept.allocation_id, kept.answer, $7
FROM unnest($2::text[], $3::text[], $4::bytea[], $5::uuid[], $6::bytea[])
    AS kept (tenant_id, key, body_digest, allocation_id, answer)
ORDER BY kept.tenant_id, kept.key
ON CONFLICT (cell, tenant_id, key) DO UPDATE
SET body_digest = excluded.body_digest, allocation_id = excluded.allocation_id, answer = excluded.answer,
    created_at = excluded.created_at
WHERE idempotent_answer.created_at < $8
RETURNING allocation_id;

-- name: kept_answer
SELECT body_digest, answer
FROM idempotent_answer
WHERE cell = $1 AND tenant_id = $2 AND key = $3 AND created_at >= $4;

-- name: forget_answers
DELETE FROM idempotent_answer WHERE cell = $1 AND allocation_id = ANY($2::uuid[]);

-- name: cells_to_clear
SELECT feed_head.cell
FROM feed_head
WHERE EXISTS (SELECT 1 FROM idempotent_answer
              WHERE idempotent_answer.cell = feed_head.cell AND idempotent_answer.created_at < $1)
    OR EXISTS (SELECT 1 FROM pin_claim
               WHERE pin_claim.cell = feed_head.cell AND pin_claim.cooling_until <= $2);

-- name: forget_old_answers
DELETE FROM idempotent_answer WHERE cell = $1 AND created_at < $2;

-- name: insert_allocations
WITH made AS (
    INSERT INTO allocation (cell, id, tenant_id, product, client_id, usage, state, version, a_virtual_numbers,
        b_virtual_numbers, a_pin, b_pin, a_listed_need_pin, b_listed_need_pin, common_pin, cool_off_s, created_at, expires_at)
    SELECT $1, new.id, new.tenant_id, new.product, new.client_id, new.usage, 'active', 1, new.a_virtual_numbers::bigint[],
        new.b_virtual_numbers::bigint[], new.a_pin, new.b_pin, new.a_listed_need_pin, new.b_listed_need_pin,
        new.common_pin, new.cool_off_s, new.created_at, new.expires_at
    FROM unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[],
        $11::boolean[], $12::boolean[], $13::boolean[], $14::integer[], $15::timestamptz[], $16::timestamptz[])
        AS new (id, tenant_id, product, client_id, usage, a_virtual_numbers, b_virtual_numbers, a_pin, b_pin,
                a_listed_need_pin, b_listed_need_pin, common_pin, cool_off_s, created_at, expires_at)
    ORDER BY new.tenant_id, new.product, new.client_id
    ON CONFLICT DO NOTHING
    RETURNING cell, tenant_id, product, created_at, id, a_virtual_numbers || b_virtual_numbers AS virtual_numbers
), carried AS (
    INSERT INTO carried_allocation (cell, tenant_id, product, virtual_number, created_at, allocation_id)
    SELECT DISTINCT made.cell, made.tenant_id, made.product, virtual_number, made.created_at, made.id
    FROM made
    CROSS JOIN LATERAL unnest(made.virtual_numbers) AS virtual_number
)
SELECT id FROM made;

-- name: insert_listed
INSERT INTO party_number (cell, allocation_id, number, side, list_position)
SELECT $1, new.allocation_id, new.number, new.side, new.list_position
FROM unnest($2::uuid[], $3::bigint[], $4::text[], $5::smallint[]) AS new (allocation_id, number, side, list_position)
ORDER BY new.allocation_id, new.number;

-- name: hold_lines
-- Makes the lines that are missing, and locks them all, so that none is taken away before its new routes stand.
INSERT INTO caller_line (cell, virtual_number, number, needs_pin)
SELECT $1, new.virtual_number, new.number, new.needs_pin
FROM unnest($2::bigint[], $3::bigint[], $4::boolean[]) AS new (virtual_number, number, needs_pin)
ORDER BY new.virtual_number, new.number
ON CONFLICT (cell, virtual_number, number) DO UPDATE SET needs_pin = caller_line.needs_pin
RETURNING virtual_number, number, needs_pin;

-- name: insert_routes
INSERT INTO route (cell, virtual_number, number, allocation_id, side, needs_pin)
SELECT $1, new.virtual_number, new.number, new.allocation_id, new.side, new.needs_pin
FROM unnest($2::bigint[], $3::bigint[], $4::uuid[], $5::text[], $6::boolean[])
    AS new (virtual_number, number, allocation_id, side, needs_pin)
ORDER BY new.virtual_number, new.number, new.allocation_id
ON CONFLICT DO NOTHING
RETURNING virtual_number, number, allocation_id;

-- name: claim_pins
-- A PIN that has cooled down is anybody's; one that still cools is only its last owner's.
INSERT INTO pin_claim (cell, virtual_number, pin, allocation_id, side)
SELECT $1, new.virtual_number, new.pin, new.allocation_id, new.side
FROM unnest($2::bigint[], $3::text[], $4::uuid[], $5::text[]) AS new (virtual_number, pin, allocation_id, side)
ORDER BY new.virtual_number, new.pin
ON CONFLICT (cell, virtual_number, pin) DO UPDATE
SET allocation_id = excluded.allocation_id, side = excluded.side, cooling_until = NULL
WHERE pin_claim.cooling_until <= $6
    OR (pin_claim.cooling_until IS NOT NULL AND pin_claim.allocation_id = excluded.allocation_id)
RETURNING virtual_number, pin, allocation_id;

-- name: delete_routes
DELETE FROM route
WHERE cell = $1 AND allocation_id = ANY($2::uuid[])
RETURNING virtual_number, number;

-- name: delete_some_routes
DELETE FROM route
USING unnest($2::bigint[], $3::bigint[], $4::uuid[]) AS gone (virtual_number, number, allocation_id)
WHERE route.cell = $1 AND route.virtual_number = gone.virtual_number AND route.number = gone.number
    AND route.allocation_id = gone.allocation_id;

-- name: lock_lines
SELECT caller_line.virtual_number, caller_line.number
FROM caller_line
JOIN unnest($2::bigint[], $3::bigint[]) AS left_by (virtual_number, number)
    ON caller_line.virtual_number = left_by.virtual_number AND caller_line.number = left_by.number
WHERE caller_line.cell = $1
ORDER BY caller_line.virtual_number, caller_line.number
FOR UPDATE OF caller_line;

-- name: lock_lines_of
SELECT caller_line.virtual_number, caller_line.number
FROM caller_line
WHERE caller_line.cell = $1
    AND (caller_line.virtual_number, caller_line.number) IN (
        SELECT route.virtual_number, route.number
        FROM route
        WHERE route.cell = $1 AND route.allocation_id = ANY($2::uuid[])
    )
ORDER BY caller_line.virtual_number, caller_line.number
FOR UPDATE OF caller_line;

-- name: delete_idle_lines
DELETE FROM caller_line
USING unnest($2::bigint[], $3::bigint[]) AS left_by (virtual_number, number)
WHERE caller_line.cell = $1 AND caller_line.virtual_number = left_by.virtual_number
    AND caller_line.number = left_by.number
    AND NOT EXISTS (
        SELECT 1 FROM route
        WHERE route.cell = $1 AND route.virtual_number = caller_line.virtual_number
            AND route.number = caller_line.number
    );

-- name: lock_pins
SELECT virtual_number, pin
FROM pin_claim
WHERE cell = $1 AND allocation_id = ANY($2::uuid[])
ORDER BY virtual_number, pin
FOR UPDATE;

-- name: cool_pins
UPDATE pin_claim
SET cooling_until = allocation.released_at + make_interval(secs => allocation.cool_off_s)
FROM allocation
WHERE pin_claim.cell = $1 AND pin_claim.allocation_id = ANY($2::uuid[]) AND pin_claim.cooling_until IS NULL
    AND allocation.cell = $1 AND allocation.id = pin_claim.allocation_id
    AND allocation.cool_off_s > 0;

-- name: delete_pins
-- Those of allocations without a cool-off; `cool_pins` has seen to the others.
DELETE FROM pin_claim
WHERE cell = $1 AND allocation_id = ANY($2::uuid[]) AND cooling_until IS NULL;

-- name: drop_some_pins
DELETE FROM pin_claim
USING unnest($3::bigint[], $4::text[]) AS gone (virtual_number, pin)
WHERE pin_claim.cell = $1 AND pin_claim.allocation_id = $2
    AND pin_claim.virtual_number = gone.virtual_number AND pin_claim.pin = gone.pin;

-- name: cool_some_pins
UPDATE pin_claim
SET cooling_until = $5
FROM unnest($3::bigint[], $4::text[]) AS gone (virtual_number, pin)
WHERE pin_claim.cell = $1 AND pin_claim.allocation_id = $2
    AND pin_claim.virtual_number = gone.virtual_number AND pin_claim.pin = gone.pin;

-- name: cooling_pins
SELECT virtual_number, pin
FROM pin_claim
WHERE cell = $1 AND virtual_number = ANY($2::bigint[]) AND cooling_until > $3;

-- name: delete_cooled_pins
DELETE FROM pin_claim WHERE cell = $1 AND cooling_until <= $2;

-- name: delete_parties
DELETE FROM party_number WHERE cell = $1 AND allocation_id = ANY($2::uuid[]);

-- name: delete_allocations
-- Of this transaction's own losers, which nobody has seen.
WITH lost AS (
    DELETE FROM allocation
    WHERE cell = $1 AND id = ANY($2::uuid[])
    RETURNING tenant_id, product, created_at, id, a_virtual_numbers || b_virtual_numbers AS virtual_numbers
)
DELETE FROM carried_allocation
USING lost
WHERE carried_allocation.cell = $1 AND carried_allocation.tenant_id = lost.tenant_id
    AND carried_allocation.product = lost.product
    AND carried_allocation.virtual_number = ANY(lost.virtual_numbers)
    AND carried_allocation.created_at = lost.created_at AND carried_allocation.allocation_id = lost.id;

-- name: ended_blockers
-- Allocations past their end which nobody has released yet, and which hold what these requests want.
SELECT allocation.id
FROM unnest($3::text[], $4::text[], $5::text[]) AS wanted (tenant_id, product, client_id)
JOIN allocation ON allocation.cell = $1 AND allocation.tenant_id = wanted.tenant_id
    AND allocation.product = wanted.product AND allocation.client_id = wanted.client_id
    AND allocation.state = 'active' AND allocation.expires_at <= $2
UNION
SELECT allocation.id
FROM unnest($6::bigint[], $7::bigint[]) AS wanted (virtual_number, number)
JOIN route ON route.cell = $1 AND route.virtual_number = wanted.virtual_number AND route.number = wanted.number
JOIN allocation ON allocation.cell = $1 AND allocation.id = route.allocation_id
    AND allocation.state = 'active' AND allocation.expires_at <= $2
UNION
SELECT allocation.id
FROM unnest($8::bigint[], $9::text[]) AS wanted (virtual_number, pin)
JOIN pin_claim ON pin_claim.cell = $1 AND pin_claim.virtual_number = wanted.virtual_number
    AND pin_claim.pin = wanted.pin
JOIN allocation ON allocation.cell = $1 AND allocation.id = pin_claim.allocation_id
    AND allocation.state = 'active' AND allocation.expires_at <= $2;

-- name: ended
SELECT ended.cell, ended.id
FROM feed_head
CROSS JOIN LATERAL (
    SELECT allocation.cell, allocation.id
    FROM allocation
    WHERE allocation.cell = feed_head.cell AND allocation.state = 'active' AND allocation.expires_at <= $1
    ORDER BY allocation.expires_at
    LIMIT $2
) AS ended;

-- name: lock_active
-- The rows to be released, in the order in which everybody locks them.
SELECT id
FROM allocation
WHERE cell = $1 AND id = ANY($2::uuid[]) AND state = 'active'
    AND ($3::timestamptz IS NULL OR expires_at <= $3)
ORDER BY id
FOR UPDATE;

-- name: lock_ended_free
-- Those that nobody else is releasing at this moment.
SELECT id
FROM allocation
WHERE cell = $1 AND id = ANY($2::uuid[]) AND state = 'active' AND expires_at <= $3
ORDER BY id
FOR UPDATE SKIP LOCKED;

-- name: release
UPDATE allocation
SET state = 'vault', version = version + 1, release_cause = $3,
    released_at = CASE $3 WHEN 'expired' THEN expires_at ELSE $4 END
WHERE cell = $1 AND id = ANY($2::uuid[]);

-- name: standing
SELECT allocation.id, allocation.tenant_id, tenant.tenant_no, allocation.product, allocation.client_id,
    allocation.usage, allocation.state, allocation.version, allocation.a_virtual_numbers,
    allocation.b_virtual_numbers, allocation.a_pin, allocation.b_pin, allocation.a_listed_need_pin,
    allocation.b_listed_need_pin, allocation.common_pin, allocation.cool_off_s, allocation.created_at,
    allocation.expires_at,
    ARRAY(SELECT party_number.number FROM party_number
          WHERE party_number.cell = $1 AND party_number.allocation_id = allocation.id
              AND party_number.side = 'a' AND party_number.list_position IS NOT NULL
          ORDER BY party_number.list_position) AS a_numbers,
    ARRAY(SELECT party_number.number FROM party_number
          WHERE party_number.cell = $1 AND party_number.allocation_id = allocation.id
              AND party_number.side = 'b' AND party_number.list_position IS NOT NULL
          ORDER BY party_number.list_position) AS b_numbers
FROM allocation
JOIN tenant ON tenant.cell = $1 AND tenant.id = allocation.tenant_id
WHERE allocation.cell = $1 AND allocation.id = ANY($2::uuid[]);

-- name: client_id
SELECT id
FROM allocation
WHERE cell = $1 AND tenant_id = $2 AND product = $3 AND client_id = $4 AND state = 'active'
    AND (expires_at IS NULL OR expires_at > $5);

-- name: lock_one
SELECT state FROM allocation WHERE cell = $1 AND tenant_id = $2 AND id = $3 FOR UPDATE;

-- name: members
SELECT number, side, joined_at
FROM party_number
WHERE cell = $1 AND allocation_id = $2 AND joined_at IS NOT NULL
ORDER BY joined_at, number;

-- name: member_routes
SELECT party_number.number, party_number.side, party_number.joined_at, route.virtual_number
FROM party_number
LEFT JOIN route ON route.cell = $1 AND route.allocation_id = $2 AND route.number = party_number.number
WHERE party_number.cell = $1 AND party_number.allocation_id = $2 AND party_number.joined_at IS NOT NULL
ORDER BY party_number.joined_at, party_number.number, route.virtual_number;

-- name: update_allocation
WITH changed AS (
    UPDATE allocation
    SET usage = $3, version = $4, a_virtual_numbers = $5, b_virtual_numbers = $6, a_pin = $7, b_pin = $8,
        expires_at = $9
    WHERE cell = $1 AND id = $2
    RETURNING cell, tenant_id, product, created_at, id, a_virtual_numbers || b_virtual_numbers AS virtual_numbers
)
INSERT INTO carried_allocation (cell, tenant_id, product, virtual_number, created_at, allocation_id)
SELECT DISTINCT changed.cell, changed.tenant_id, changed.product, virtual_number, changed.created_at, changed.id
FROM changed
CROSS JOIN LATERAL unnest(changed.virtual_numbers) AS virtual_number
ON CONFLICT DO NOTHING;

-- name: delete_some_parties
DELETE FROM party_number WHERE cell = $1 AND allocation_id = $2 AND number = ANY($3::bigint[]);

-- name: place_listed
INSERT INTO party_number (cell, allocation_id, number, side, list_position)
SELECT $1, new.allocation_id, new.number, new.side, new.list_position
FROM unnest($2::uuid[], $3::bigint[], $4::text[], $5::smallint[]) AS new (allocation_id, number, side, list_position)
ORDER BY new.allocation_id, new.number
ON CONFLICT (cell, allocation_id, number) DO UPDATE
SET side = excluded.side, list_position = excluded.list_position;

-- name: insert_members
INSERT INTO party_number (cell, allocation_id, number, side, joined_at)
SELECT $1, new.allocation_id, new.number, new.side, new.joined_at
FROM unnest($2::uuid[], $3::bigint[], $4::text[], $5::timestamptz[]) AS new (allocation_id, number, side, joined_at)
ORDER BY new.allocation_id, new.number
ON CONFLICT DO NOTHING
RETURNING allocation_id, number;
