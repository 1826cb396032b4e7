-- name: keep_answers
-- An answer kept longer than its time makes way for another under the same key.
INSERT INTO idempotent_answer (cell, tenant_id, key, body_digest, allocation_id, answer, sealed_with, created_at)
SELECT $1, kept.tenant_id, kept.key, kept.body_digest, kept.allocation_id, kept.answer, kept.sealed_with, $7
FROM unnest($2::text[], $3::text[], $4::bytea[], $5::uuid[], $6::bytea[], $9::text[])
    AS kept (tenant_id, key, body_digest, allocation_id, answer, sealed_with)
ORDER BY kept.tenant_id, kept.key
ON CONFLICT (cell, tenant_id, key) DO UPDATE
SET body_digest = excluded.body_digest, allocation_id = excluded.allocation_id, answer = excluded.answer,
    sealed_with = excluded.sealed_with, created_at = excluded.created_at
WHERE idempotent_answer.created_at < $8
RETURNING allocation_id;

-- name: kept_answer
SELECT body_digest, answer, sealed_with
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
               WHERE pin_claim.cell = feed_head.cell AND pin_claim.cooling_until <= $2)
    OR EXISTS (SELECT 1 FROM number_cooling
               WHERE number_cooling.cell = feed_head.cell AND number_cooling.cooling_until <= $2);

-- name: forget_old_answers
DELETE FROM idempotent_answer WHERE cell = $1 AND created_at < $2;

-- name: make
-- All rows of a batch of new allocations in one statement, and the losers: an allocation that misses a row goes on to
-- nothing that comes after it. What one rule refuses, the next ones are not asked about: client id, VN, number, PIN.
-- The allocations come as one JSON text and their rows are made of it here, because encoding scores of arrays takes
-- longer than the inserts. $3 and $4 are the VNs that were claimed for allocations that want one alone.
WITH wanted AS MATERIALIZED (
    SELECT place, id, tenant_id, product, client_id, generation, usage, a_numbers, b_numbers, a_virtual_numbers,
        b_virtual_numbers, a_pins, b_pins, a_listed_need_pin, b_listed_need_pin, common_pin, cool_off_s, is_exclusive,
        pin_attempts_max, record, custom_field, flow_id, a_tag, b_tag, created_at, expires_at
    FROM jsonb_to_recordset($2)
        AS new (place integer, id uuid, tenant_id text, product text, client_id text, generation smallint, usage text,
                a_numbers bigint[], b_numbers bigint[], a_virtual_numbers bigint[], b_virtual_numbers bigint[],
                a_pins text[], b_pins text[], a_listed_need_pin boolean, b_listed_need_pin boolean,
                common_pin boolean, cool_off_s integer, is_exclusive boolean, pin_attempts_max smallint,
                record boolean, custom_field text, flow_id text, a_tag text, b_tag text, created_at timestamptz,
                expires_at timestamptz)
), made AS (
    INSERT INTO allocation (cell, id, tenant_id, product, client_id, generation, usage, state, version, a_virtual_numbers,
        b_virtual_numbers, a_pins, b_pins, a_listed_need_pin, b_listed_need_pin, common_pin, cool_off_s, is_exclusive,
        pin_attempts_max, record, custom_field, flow_id, a_tag, b_tag, created_at, expires_at)
    SELECT $1, id, tenant_id, product, client_id, generation, usage, 'active', 1, a_virtual_numbers,
        b_virtual_numbers, a_pins, b_pins, a_listed_need_pin, b_listed_need_pin, common_pin, cool_off_s, is_exclusive,
        pin_attempts_max, record, custom_field, flow_id, a_tag, b_tag, created_at, expires_at
    FROM wanted
    ORDER BY tenant_id, product, client_id
    ON CONFLICT DO NOTHING
    RETURNING id
), party AS MATERIALIZED (
    SELECT wanted.place, wanted.id, wanted.product, wanted.common_pin, side.key, side.numbers, side.virtual_numbers,
        side.pins, side.needs_pin
    FROM wanted
    JOIN made ON made.id = wanted.id
    CROSS JOIN LATERAL (
        VALUES ('a', wanted.a_numbers, wanted.a_virtual_numbers, wanted.a_pins, wanted.a_listed_need_pin),
               ('b', wanted.b_numbers, wanted.b_virtual_numbers, wanted.b_pins, wanted.b_listed_need_pin)
    ) AS side (key, numbers, virtual_numbers, pins, needs_pin)
), listed AS (
    INSERT INTO party_number (cell, allocation_id, number, side, list_position)
    SELECT $1, party.id, listed.number, party.key, listed.place - 1
    FROM party
    CROSS JOIN LATERAL unnest(party.numbers) WITH ORDINALITY AS listed (number, place)
    ORDER BY party.id, listed.number
), stand AS MATERIALIZED (
    SELECT DISTINCT wanted.id, wanted.tenant_id, wanted.product, wanted.is_exclusive, wanted.created_at,
        bearing.virtual_number
    FROM wanted
    JOIN made ON made.id = wanted.id
    CROSS JOIN LATERAL unnest(wanted.a_virtual_numbers || wanted.b_virtual_numbers) AS bearing (virtual_number)
    ORDER BY bearing.virtual_number, wanted.id
), carried AS (
    INSERT INTO carried_allocation (cell, tenant_id, product, virtual_number, created_at, allocation_id)
    SELECT $1, tenant_id, product, virtual_number, created_at, id FROM stand
), used AS (
    -- As `insert_uses`. Before routes and PINs, which lock their VNs against whoever wants one alone. Lateral, because
    -- nobody can tell how many allocations a JSON text has, and a plan for many would read all VNs.
    INSERT INTO vn_use (cell, virtual_number, allocation_id, is_exclusive, product)
    SELECT $1, stand.virtual_number, stand.id, stand.is_exclusive, stand.product
    FROM stand
    CROSS JOIN LATERAL (
        SELECT virtual_number.number
        FROM virtual_number
        WHERE virtual_number.cell = $1 AND virtual_number.number = stand.virtual_number
            AND virtual_number.is_exclusive = stand.is_exclusive AND NOT virtual_number.is_drained
            AND (virtual_number.cooling_until IS NULL OR virtual_number.cooling_until <= $5)
        FOR KEY SHARE
    ) AS with_room
    WHERE NOT stand.is_exclusive
        OR (stand.virtual_number, stand.id) IN (
            SELECT claimed.virtual_number, claimed.allocation_id
            FROM unnest($3::bigint[], $4::uuid[]) AS claimed (virtual_number, allocation_id)
        )
    ORDER BY stand.virtual_number, stand.id
    ON CONFLICT DO NOTHING
    RETURNING virtual_number, allocation_id
), busy AS MATERIALIZED (
    SELECT stand.id, stand.virtual_number
    FROM stand
    LEFT JOIN used ON used.virtual_number = stand.virtual_number AND used.allocation_id = stand.id
    WHERE used.allocation_id IS NULL
), wanted_route AS MATERIALIZED (
    SELECT party.place, party.product, on_vn.virtual_number, listed.number, party.id AS allocation_id, party.key AS side,
        party.needs_pin
    FROM party
    CROSS JOIN LATERAL unnest(party.virtual_numbers) AS on_vn (virtual_number)
    CROSS JOIN LATERAL unnest(party.numbers) AS listed (number)
    WHERE party.id NOT IN (SELECT busy.id FROM busy)
), line AS (
    -- As `hold_lines`. Of two that differ the first one says whether the line needs a PIN.
    INSERT INTO caller_line (cell, virtual_number, number, needs_pin)
    SELECT DISTINCT ON (virtual_number, number) $1, virtual_number, number, needs_pin
    FROM wanted_route
    ORDER BY virtual_number, number, place, side
    ON CONFLICT (cell, virtual_number, number) DO UPDATE SET needs_pin = caller_line.needs_pin
    RETURNING virtual_number, number, needs_pin
), routed AS (
    INSERT INTO route (cell, virtual_number, number, allocation_id, side, needs_pin)
    SELECT $1, wanted_route.virtual_number, wanted_route.number, wanted_route.allocation_id, wanted_route.side,
        wanted_route.needs_pin
    FROM wanted_route
    JOIN line ON line.virtual_number = wanted_route.virtual_number AND line.number = wanted_route.number
        AND line.needs_pin = wanted_route.needs_pin
    ORDER BY wanted_route.virtual_number, wanted_route.number, wanted_route.allocation_id
    ON CONFLICT DO NOTHING
    RETURNING virtual_number, number, allocation_id
), unrouted AS MATERIALIZED (
    SELECT wanted_route.allocation_id, wanted_route.virtual_number, wanted_route.number
    FROM wanted_route
    LEFT JOIN routed ON routed.virtual_number = wanted_route.virtual_number AND routed.number = wanted_route.number
        AND routed.allocation_id = wanted_route.allocation_id
    WHERE routed.allocation_id IS NULL
    UNION ALL
    -- As `cooling_numbers`: the engine picks a VN for nobody whose number cools there.
    SELECT wanted_route.allocation_id, wanted_route.virtual_number, wanted_route.number
    FROM wanted_route
    CROSS JOIN LATERAL (
        SELECT number_cooling.number
        FROM number_cooling
        WHERE number_cooling.cell = $1 AND number_cooling.virtual_number = wanted_route.virtual_number
            AND number_cooling.number = wanted_route.number AND number_cooling.cooling_until > $5
            AND number_cooling.allocation_id <> wanted_route.allocation_id
        LIMIT 1
    ) AS cooling
    WHERE wanted_route.product = 'greenvn'
), wanted_claim AS MATERIALIZED (
    -- A common PIN is both sides', and one claim on a VN that both have.
    SELECT DISTINCT party.place, party.id AS allocation_id, on_vn.virtual_number, of_side.pin,
        CASE WHEN party.common_pin THEN 'both' ELSE party.key END AS side
    FROM party
    CROSS JOIN LATERAL unnest(party.virtual_numbers) AS on_vn (virtual_number)
    CROSS JOIN LATERAL unnest(party.pins) AS of_side (pin)
    WHERE party.id NOT IN (SELECT busy.id FROM busy)
        AND party.id NOT IN (SELECT unrouted.allocation_id FROM unrouted)
), claimed AS (
    -- As `claim_pins`. One statement cannot touch a row twice: of two claims of one batch the first stands.
    INSERT INTO pin_claim (cell, virtual_number, pin, allocation_id, side)
    SELECT DISTINCT ON (virtual_number, pin) $1, virtual_number, pin, allocation_id, side
    FROM wanted_claim
    ORDER BY virtual_number, pin, place, side
    ON CONFLICT (cell, virtual_number, pin) DO UPDATE
    SET allocation_id = excluded.allocation_id, side = excluded.side, cooling_until = NULL
    WHERE pin_claim.cooling_until <= $5
        OR (pin_claim.cooling_until IS NOT NULL AND pin_claim.allocation_id = excluded.allocation_id)
    RETURNING virtual_number, pin, allocation_id
)
SELECT wanted.id AS allocation_id, 'client_id' AS taken, NULL::bigint AS virtual_number, NULL::bigint AS number,
    NULL::text AS pin
FROM wanted
WHERE wanted.id NOT IN (SELECT made.id FROM made)
UNION ALL
SELECT busy.id, 'virtual_number', busy.virtual_number, NULL, NULL FROM busy
UNION ALL
SELECT unrouted.allocation_id, 'number', unrouted.virtual_number, unrouted.number, NULL FROM unrouted
UNION ALL
SELECT wanted_claim.allocation_id, 'pin', wanted_claim.virtual_number, NULL, wanted_claim.pin
FROM wanted_claim
LEFT JOIN claimed ON claimed.virtual_number = wanted_claim.virtual_number AND claimed.pin = wanted_claim.pin
    AND claimed.allocation_id = wanted_claim.allocation_id
WHERE claimed.allocation_id IS NULL
ORDER BY virtual_number, number, pin;

-- name: lock_virtual_numbers
-- Nobody comes to stand on them meanwhile.
SELECT number FROM virtual_number WHERE cell = $1 AND number = ANY($2::bigint[]) ORDER BY number FOR UPDATE;

-- name: claim_exclusive
-- Locked before, so that this statement sees whoever stands there. Nothing may be claimed on which `insert_uses`
-- would not stand: nobody would give it back.
UPDATE virtual_number
SET is_exclusive = true, cooling_until = NULL, cooling_for = NULL
FROM unnest($2::bigint[], $3::uuid[]) AS wanted (number, allocation_id)
WHERE virtual_number.cell = $1 AND virtual_number.number = wanted.number
    AND NOT virtual_number.is_exclusive AND NOT virtual_number.is_drained
    AND NOT EXISTS (
        SELECT 1 FROM vn_use WHERE vn_use.cell = $1 AND vn_use.virtual_number = virtual_number.number
    )
    AND (virtual_number.cooling_until IS NULL OR virtual_number.cooling_until <= $4
         OR virtual_number.cooling_for = wanted.allocation_id)
RETURNING virtual_number.number;

-- name: insert_uses
-- The lock keeps a VN from becoming exclusive or being deleted until we are done. It does not hold off draining:
-- what began before the VN was drained may still come to stand on it.
INSERT INTO vn_use (cell, virtual_number, allocation_id, is_exclusive, product)
SELECT $1, new.virtual_number, new.allocation_id, new.is_exclusive, new.product
FROM unnest($2::bigint[], $3::uuid[], $4::boolean[], $5::text[])
    AS new (virtual_number, allocation_id, is_exclusive, product)
JOIN virtual_number ON virtual_number.cell = $1 AND virtual_number.number = new.virtual_number
    AND virtual_number.is_exclusive = new.is_exclusive AND NOT virtual_number.is_drained
    AND (virtual_number.cooling_until IS NULL OR virtual_number.cooling_until <= $6)
ORDER BY new.virtual_number, new.allocation_id
FOR KEY SHARE OF virtual_number
ON CONFLICT DO NOTHING
RETURNING virtual_number, allocation_id;

-- name: count_virtual_numbers
SELECT count(*) FROM virtual_number WHERE cell = $1 AND number = ANY($2::bigint[]);

-- name: delete_uses
DELETE FROM vn_use
WHERE cell = $1 AND allocation_id = ANY($2::uuid[])
RETURNING virtual_number, allocation_id, is_exclusive;

-- name: delete_some_uses
DELETE FROM vn_use
WHERE cell = $1 AND allocation_id = $2 AND virtual_number = ANY($3::bigint[])
RETURNING virtual_number, allocation_id, is_exclusive;

-- name: end_exclusive
-- It cools from the release on, or from $4 where its allocation only left it.
UPDATE virtual_number
SET is_exclusive = false, cooling_until = left_by.cooling_until,
    cooling_for = CASE WHEN left_by.cooling_until IS NOT NULL THEN left_by.allocation_id END
FROM (
    SELECT gone.number, gone.allocation_id,
        CASE WHEN allocation.cool_off_s > 0
             THEN coalesce(allocation.released_at, $4) + make_interval(secs => allocation.cool_off_s) END AS cooling_until
    FROM unnest($2::bigint[], $3::uuid[]) AS gone (number, allocation_id)
    JOIN allocation ON allocation.cell = $1 AND allocation.id = gone.allocation_id
) AS left_by
WHERE virtual_number.cell = $1 AND virtual_number.number = left_by.number AND virtual_number.is_exclusive;

-- name: cool_numbers
-- Of released allocations with a cool-off, before their routes are deleted: the longest of each number and VN.
INSERT INTO number_cooling (cell, virtual_number, number, allocation_id, cooling_until)
SELECT DISTINCT ON (route.virtual_number, route.number) $1, route.virtual_number, route.number, route.allocation_id,
    allocation.released_at + make_interval(secs => allocation.cool_off_s) AS cooling_until
FROM route
JOIN allocation ON allocation.cell = $1 AND allocation.id = route.allocation_id AND allocation.cool_off_s > 0
WHERE route.cell = $1 AND route.allocation_id = ANY($2::uuid[])
ORDER BY route.virtual_number, route.number, cooling_until DESC
ON CONFLICT (cell, virtual_number, number) DO UPDATE
SET allocation_id = excluded.allocation_id, cooling_until = excluded.cooling_until
WHERE number_cooling.cooling_until <= excluded.cooling_until;

-- name: cool_some_numbers
INSERT INTO number_cooling (cell, virtual_number, number, allocation_id, cooling_until)
SELECT $1, gone.virtual_number, gone.number, gone.allocation_id, $5
FROM unnest($2::bigint[], $3::bigint[], $4::uuid[]) AS gone (virtual_number, number, allocation_id)
ORDER BY gone.virtual_number, gone.number
ON CONFLICT (cell, virtual_number, number) DO UPDATE
SET allocation_id = excluded.allocation_id, cooling_until = excluded.cooling_until
WHERE number_cooling.cooling_until <= excluded.cooling_until;

-- name: cooling_numbers
-- Of these routes, those that a number's cool-off stands against.
SELECT wanted.virtual_number, wanted.number, wanted.allocation_id
FROM unnest($2::bigint[], $3::bigint[], $4::uuid[]) AS wanted (virtual_number, number, allocation_id)
JOIN number_cooling ON number_cooling.cell = $1 AND number_cooling.virtual_number = wanted.virtual_number
    AND number_cooling.number = wanted.number
WHERE number_cooling.cooling_until > $5 AND number_cooling.allocation_id <> wanted.allocation_id;

-- name: resting_virtual_numbers
-- Where one of these numbers or PINs still cools, for another allocation.
SELECT virtual_number FROM number_cooling
WHERE cell = $1 AND number = ANY($2::bigint[]) AND cooling_until > $4 AND allocation_id <> $5
UNION
SELECT virtual_number FROM pin_claim
WHERE cell = $1 AND pin = ANY($3::text[]) AND cooling_until > $4 AND allocation_id <> $5
UNION
SELECT number FROM virtual_number
WHERE cell = $1 AND cooling_until > $4 AND cooling_for <> $5 AND tenant_id = $6;

-- name: delete_cooled_numbers
DELETE FROM number_cooling WHERE cell = $1 AND cooling_until <= $2;

-- name: last_virtual_number_of_pair
-- The VN of the latest GreenVN allocation in which one of these faced one of those.
SELECT allocation.a_virtual_numbers[1] AS virtual_number
FROM party_number AS one
JOIN party_number AS other ON other.cell = $1 AND other.allocation_id = one.allocation_id AND other.side <> one.side
    AND other.number = ANY($4::bigint[])
JOIN allocation ON allocation.cell = $1 AND allocation.id = one.allocation_id
    AND allocation.tenant_id = $2 AND allocation.product = 'greenvn'
WHERE one.cell = $1 AND one.number = ANY($3::bigint[])
ORDER BY allocation.created_at DESC
LIMIT 1;

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

-- name: cooling_pin_counts
SELECT virtual_number, length(pin) AS length, count(*) AS count
FROM pin_claim
WHERE cell = $1 AND virtual_number = ANY($2::bigint[]) AND cooling_until > $3
GROUP BY virtual_number, length(pin);

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
    AND allocation.state = 'active' AND allocation.expires_at <= $2
UNION
SELECT allocation.id
FROM unnest($10::bigint[], $11::boolean[]) AS wanted (virtual_number, is_exclusive)
JOIN vn_use ON vn_use.cell = $1 AND vn_use.virtual_number = wanted.virtual_number
    AND (vn_use.is_exclusive OR wanted.is_exclusive)
JOIN allocation ON allocation.cell = $1 AND allocation.id = vn_use.allocation_id
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

-- name: earliest_end
-- Of all that are active; an end in the past is one that nobody has released yet.
SELECT min(earliest.expires_at)
FROM feed_head
CROSS JOIN LATERAL (
    SELECT allocation.expires_at
    FROM allocation
    WHERE allocation.cell = feed_head.cell AND allocation.state = 'active' AND allocation.expires_at IS NOT NULL
    ORDER BY allocation.expires_at
    LIMIT 1
) AS earliest;

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
    allocation.generation, allocation.usage, allocation.state, allocation.version, allocation.a_virtual_numbers,
    allocation.b_virtual_numbers, allocation.a_pins, allocation.b_pins, allocation.a_listed_need_pin,
    allocation.b_listed_need_pin, allocation.common_pin, allocation.cool_off_s, allocation.is_exclusive,
    allocation.pin_attempts_max, allocation.pin_failures, allocation.record, allocation.custom_field,
    allocation.flow_id, allocation.a_tag, allocation.b_tag, allocation.created_at, allocation.updated_at,
    allocation.expires_at, allocation.released_at, allocation.release_cause,
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
    SET usage = $3, version = $4, a_virtual_numbers = $5, b_virtual_numbers = $6, a_pins = $7, b_pins = $8,
        expires_at = $9, pin_attempts_max = $10, pin_failures = $11, record = $12, custom_field = $13, updated_at = $14
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
