-- Lists are read in two steps: the keys of one page, by the index that fits the filters best, then what they
-- name. A page begins below the key at which the one before it ended, so that every page is one short range
-- of an index, wherever it begins; nothing is counted or skipped.

-- name: plan_for_values
-- A plan for any values takes the limit for a tenth of the table, and a rare number for a usual one.
SET LOCAL plan_cache_mode = force_custom_plan;

-- name: allocations
-- Of both states, each a range of its own.
SELECT page.created_at, page.id
FROM unnest(ARRAY['active', 'vault']) AS wanted (state)
CROSS JOIN LATERAL (
    SELECT allocation.created_at, allocation.id
    FROM allocation
    WHERE allocation.cell = $1 AND allocation.tenant_id = $2 AND allocation.product = $3
        AND allocation.state = wanted.state
        AND allocation.created_at >= $4 AND (allocation.created_at, allocation.id) < ($5, $6)
    ORDER BY allocation.created_at DESC, allocation.id DESC
    LIMIT $7
) AS page
ORDER BY page.created_at DESC, page.id DESC
LIMIT $7;

-- name: active_allocations
-- Past its end it counts as vaulted; the sweep comes within a second, so that few are stepped over.
SELECT created_at, id
FROM allocation
WHERE cell = $1 AND tenant_id = $2 AND product = $3 AND state = 'active'
    AND created_at >= $4 AND (created_at, id) < ($5, $6)
    AND (expires_at IS NULL OR expires_at > $8)
ORDER BY created_at DESC, id DESC
LIMIT $7;

-- name: vaulted_allocations
-- Those past their end that nobody has swept yet, a second's worth, are found by their end, whoever has them:
-- among the active ones of a tenant they are too rare to be looked for.
WITH ended AS MATERIALIZED (
    SELECT tenant_id, product, created_at, id
    FROM allocation
    WHERE cell = $1 AND state = 'active' AND expires_at <= $8
), vaulted AS MATERIALIZED (
    SELECT created_at, id
    FROM allocation
    WHERE cell = $1 AND tenant_id = $2 AND product = $3 AND state = 'vault'
        AND created_at >= $4 AND (created_at, id) < ($5, $6)
    ORDER BY created_at DESC, id DESC
    LIMIT $7
)
SELECT ended.created_at, ended.id
FROM ended
WHERE ended.tenant_id = $2 AND ended.product = $3
    AND ended.created_at >= $4 AND (ended.created_at, ended.id) < ($5, $6)
UNION ALL
SELECT vaulted.created_at, vaulted.id FROM vaulted
ORDER BY created_at DESC, id DESC
LIMIT $7;

-- name: allocations_by_client_id
SELECT created_at, id
FROM allocation
WHERE cell = $1 AND tenant_id = $2 AND product = $3 AND client_id = $9
    AND created_at >= $4 AND (created_at, id) < ($5, $6)
    AND ($10::text IS NULL
        OR ($10 = 'active') = (state = 'active' AND (expires_at IS NULL OR expires_at > $8)))
    AND ($11::bigint IS NULL OR $11 = ANY(a_virtual_numbers || b_virtual_numbers))
    AND ($12::bigint IS NULL OR EXISTS (
        SELECT 1 FROM party_number
        WHERE party_number.cell = $1 AND party_number.allocation_id = allocation.id AND party_number.number = $12
    ))
ORDER BY created_at DESC, id DESC
LIMIT $7;

-- name: allocations_by_vn
SELECT carried.created_at, carried.allocation_id AS id
FROM carried_allocation AS carried
CROSS JOIN LATERAL (
    -- Its one row, looked up when its turn comes: the limit keeps the planner from joining all of them first.
    SELECT allocation.state, allocation.expires_at,
        allocation.a_virtual_numbers || allocation.b_virtual_numbers AS virtual_numbers
    FROM allocation
    WHERE allocation.cell = $1 AND allocation.id = carried.allocation_id
    LIMIT 1
) AS allocation
WHERE carried.cell = $1 AND carried.tenant_id = $2 AND carried.product = $3 AND carried.virtual_number = $9
    AND carried.created_at >= $4 AND (carried.created_at, carried.allocation_id) < ($5, $6)
    AND $9 = ANY(allocation.virtual_numbers)
    AND ($10::text IS NULL OR ($10 = 'active')
        = (allocation.state = 'active' AND (allocation.expires_at IS NULL OR allocation.expires_at > $8)))
ORDER BY carried.created_at DESC, carried.allocation_id DESC
LIMIT $7;

-- name: active_allocations_by_vn
-- A VN has had any number of allocations and has few live ones, each of them with a route or a PIN there.
SELECT created_at, id
FROM allocation
WHERE cell = $1 AND tenant_id = $2 AND product = $3 AND state = 'active'
    AND created_at >= $4 AND (created_at, id) < ($5, $6)
    AND (expires_at IS NULL OR expires_at > $8)
    AND id IN (
        SELECT route.allocation_id FROM route WHERE route.cell = $1 AND route.virtual_number = $9
        UNION
        SELECT pin_claim.allocation_id FROM pin_claim
        WHERE pin_claim.cell = $1 AND pin_claim.virtual_number = $9 AND pin_claim.cooling_until IS NULL
    )
ORDER BY created_at DESC, id DESC
LIMIT $7;

-- name: allocations_by_number
-- What one person's number was a party of is little enough to be put in order for each page.
SELECT allocation.created_at, allocation.id
FROM party_number
CROSS JOIN LATERAL (
    SELECT allocation.id, allocation.tenant_id, allocation.product, allocation.state, allocation.created_at,
        allocation.expires_at, allocation.a_virtual_numbers || allocation.b_virtual_numbers AS virtual_numbers
    FROM allocation
    WHERE allocation.cell = $1 AND allocation.id = party_number.allocation_id
    LIMIT 1
) AS allocation
WHERE party_number.cell = $1 AND party_number.number = $9
    AND allocation.tenant_id = $2 AND allocation.product = $3
    AND allocation.created_at >= $4 AND (allocation.created_at, allocation.id) < ($5, $6)
    AND ($10::text IS NULL OR ($10 = 'active')
        = (allocation.state = 'active' AND (allocation.expires_at IS NULL OR allocation.expires_at > $8)))
    AND ($11::bigint IS NULL OR $11 = ANY(allocation.virtual_numbers))
ORDER BY allocation.created_at DESC, allocation.id DESC
LIMIT $7;

-- name: calls
SELECT page.first_hop_at, page.call_sid, page.virtual_number, page.caller
FROM unnest($3::text[]) AS wanted (decision)
CROSS JOIN LATERAL (
    SELECT call.first_hop_at, call.call_sid, call.virtual_number, call.caller
    FROM call
    WHERE call.cell = $1 AND call.tenant_id = $2 AND call.decision = wanted.decision AND call.first_hop_at >= $4
        AND (call.first_hop_at, call.call_sid, call.virtual_number, call.caller) < ($5, $6, $7, $8)
    ORDER BY call.first_hop_at DESC, call.call_sid DESC, call.virtual_number DESC, call.caller DESC
    LIMIT $9
) AS page
ORDER BY page.first_hop_at DESC, page.call_sid DESC, page.virtual_number DESC, page.caller DESC
LIMIT $9;

-- name: calls_by_caller
SELECT page.first_hop_at, page.call_sid, page.virtual_number, page.caller
FROM unnest($3::text[]) AS wanted (decision)
CROSS JOIN LATERAL (
    SELECT call.first_hop_at, call.call_sid, call.virtual_number, call.caller
    FROM call
    WHERE call.cell = $1 AND call.tenant_id = $2 AND call.caller = $10 AND call.decision = wanted.decision
        AND call.first_hop_at >= $4
        AND (call.first_hop_at, call.call_sid, call.virtual_number, call.caller) < ($5, $6, $7, $8)
        AND ($11::bigint IS NULL OR call.virtual_number = $11)
    ORDER BY call.first_hop_at DESC, call.call_sid DESC, call.virtual_number DESC, call.caller DESC
    LIMIT $9
) AS page
ORDER BY page.first_hop_at DESC, page.call_sid DESC, page.virtual_number DESC, page.caller DESC
LIMIT $9;

-- name: calls_by_vn
SELECT page.first_hop_at, page.call_sid, page.virtual_number, page.caller
FROM unnest($3::text[]) AS wanted (decision)
CROSS JOIN LATERAL (
    SELECT call.first_hop_at, call.call_sid, call.virtual_number, call.caller
    FROM call
    WHERE call.cell = $1 AND call.tenant_id = $2 AND call.virtual_number = $10 AND call.decision = wanted.decision
        AND call.first_hop_at >= $4
        AND (call.first_hop_at, call.call_sid, call.virtual_number, call.caller) < ($5, $6, $7, $8)
    ORDER BY call.first_hop_at DESC, call.call_sid DESC, call.virtual_number DESC, call.caller DESC
    LIMIT $9
) AS page
ORDER BY page.first_hop_at DESC, page.call_sid DESC, page.virtual_number DESC, page.caller DESC
LIMIT $9;

-- name: calls_of_allocation
SELECT first_hop_at, call_sid, virtual_number, caller
FROM call
WHERE cell = $1 AND tenant_id = $2 AND allocation_id = $10 AND decision = ANY($3::text[]) AND first_hop_at >= $4
    AND (first_hop_at, call_sid, virtual_number, caller) < ($5, $6, $7, $8)
    AND ($11::bigint IS NULL OR virtual_number = $11)
    AND ($12::bigint IS NULL OR caller = $12)
ORDER BY first_hop_at DESC, call_sid DESC, virtual_number DESC, caller DESC
LIMIT $9;

-- name: calls_of_sid
-- One for each caller and VN: a handful.
SELECT first_hop_at, call_sid, virtual_number, caller
FROM call
WHERE cell = $1 AND tenant_id = $2 AND call_sid = $10 AND decision = ANY($3::text[]) AND first_hop_at >= $4
    AND (first_hop_at, call_sid, virtual_number, caller) < ($5, $6, $7, $8)
    AND ($11::bigint IS NULL OR virtual_number = $11)
    AND ($12::bigint IS NULL OR caller = $12)
    AND ($13::uuid IS NULL OR allocation_id = $13)
ORDER BY first_hop_at DESC, call_sid DESC, virtual_number DESC, caller DESC
LIMIT $9;

-- name: calls_at
SELECT call.call_sid, call.virtual_number, call.caller, call.decision, call.reason, call.matched, call.allocation_id,
    allocation.product, call.side, call.target, call.hops, call.first_hop_at, call.last_hop_at, call_end.call_type,
    call_end.dial_call_status, call_end.dialled, call_end.dial_call_duration_s, call_end.on_call_duration_s,
    call_end.recording_url, call_end.start_time, call_end.ended_at, call.request_id,
    call_end.request_id AS end_request_id
FROM unnest($3::text[], $4::bigint[], $5::bigint[]) WITH ORDINALITY
    AS wanted (call_sid, virtual_number, caller, position)
JOIN call ON call.cell = $1 AND call.tenant_id = $2 AND call.call_sid = wanted.call_sid
    AND call.virtual_number = wanted.virtual_number AND call.caller = wanted.caller
LEFT JOIN allocation ON allocation.cell = $1 AND allocation.id = call.allocation_id
LEFT JOIN call_end ON call_end.cell = $1 AND call_end.tenant_id = $2 AND call_end.call_sid = call.call_sid
ORDER BY wanted.position;

-- name: count_calls_of
SELECT count(*) FROM call WHERE cell = $1 AND allocation_id = $2;

-- name: verifications
-- Here and in the next three a page begins at its key and not below it, because the key that a client sees
-- lacks the digest, which would tell the digits to whoever tries them all.
SELECT page.verified_at, page.call_sid, page.virtual_number, page.caller, page.digits_digest
FROM unnest($3::text[]) AS wanted (outcome)
CROSS JOIN LATERAL (
    SELECT verification.verified_at, verification.call_sid, verification.virtual_number, verification.caller,
        verification.digits_digest
    FROM verification
    WHERE verification.cell = $1 AND verification.tenant_id = $2 AND verification.outcome = wanted.outcome
        AND verification.verified_at >= $4
        AND (verification.verified_at, verification.call_sid, verification.virtual_number, verification.caller)
            <= ($5, $6, $7, $8)
    ORDER BY verification.verified_at DESC, verification.call_sid DESC, verification.virtual_number DESC,
        verification.caller DESC, verification.digits_digest DESC
    LIMIT $9
) AS page
ORDER BY page.verified_at DESC, page.call_sid DESC, page.virtual_number DESC, page.caller DESC,
    page.digits_digest DESC
LIMIT $9;

-- name: verifications_by_caller
SELECT page.verified_at, page.call_sid, page.virtual_number, page.caller, page.digits_digest
FROM unnest($3::text[]) AS wanted (outcome)
CROSS JOIN LATERAL (
    SELECT verification.verified_at, verification.call_sid, verification.virtual_number, verification.caller,
        verification.digits_digest
    FROM verification
    WHERE verification.cell = $1 AND verification.tenant_id = $2 AND verification.caller = $10
        AND verification.outcome = wanted.outcome AND verification.verified_at >= $4
        AND (verification.verified_at, verification.call_sid, verification.virtual_number, verification.caller)
            <= ($5, $6, $7, $8)
        AND ($11::bigint IS NULL OR verification.virtual_number = $11)
    ORDER BY verification.verified_at DESC, verification.call_sid DESC, verification.virtual_number DESC,
        verification.caller DESC, verification.digits_digest DESC
    LIMIT $9
) AS page
ORDER BY page.verified_at DESC, page.call_sid DESC, page.virtual_number DESC, page.caller DESC,
    page.digits_digest DESC
LIMIT $9;

-- name: verifications_by_vn
SELECT page.verified_at, page.call_sid, page.virtual_number, page.caller, page.digits_digest
FROM unnest($3::text[]) AS wanted (outcome)
CROSS JOIN LATERAL (
    SELECT verification.verified_at, verification.call_sid, verification.virtual_number, verification.caller,
        verification.digits_digest
    FROM verification
    WHERE verification.cell = $1 AND verification.tenant_id = $2 AND verification.virtual_number = $10
        AND verification.outcome = wanted.outcome AND verification.verified_at >= $4
        AND (verification.verified_at, verification.call_sid, verification.virtual_number, verification.caller)
            <= ($5, $6, $7, $8)
    ORDER BY verification.verified_at DESC, verification.call_sid DESC, verification.virtual_number DESC,
        verification.caller DESC, verification.digits_digest DESC
    LIMIT $9
) AS page
ORDER BY page.verified_at DESC, page.call_sid DESC, page.virtual_number DESC, page.caller DESC,
    page.digits_digest DESC
LIMIT $9;

-- name: verifications_of_allocation
SELECT verified_at, call_sid, virtual_number, caller, digits_digest
FROM verification
WHERE cell = $1 AND tenant_id = $2 AND allocation_id = $10 AND outcome = ANY($3::text[]) AND verified_at >= $4
    AND (verified_at, call_sid, virtual_number, caller) <= ($5, $6, $7, $8)
    AND ($11::bigint IS NULL OR virtual_number = $11)
    AND ($12::bigint IS NULL OR caller = $12)
ORDER BY verified_at DESC, call_sid DESC, virtual_number DESC, caller DESC, digits_digest DESC
LIMIT $9;

-- name: verifications_of_sid
-- The entries of one call: a handful.
SELECT verified_at, call_sid, virtual_number, caller, digits_digest
FROM verification
WHERE cell = $1 AND tenant_id = $2 AND call_sid = $10 AND outcome = ANY($3::text[]) AND verified_at >= $4
    AND (verified_at, call_sid, virtual_number, caller) <= ($5, $6, $7, $8)
    AND ($11::bigint IS NULL OR virtual_number = $11)
    AND ($12::bigint IS NULL OR caller = $12)
    AND ($13::uuid IS NULL OR allocation_id = $13)
ORDER BY verified_at DESC, call_sid DESC, virtual_number DESC, caller DESC, digits_digest DESC
LIMIT $9;

-- name: verifications_at
SELECT verification.call_sid, verification.virtual_number, verification.caller, verification.outcome,
    verification.reason, verification.allocation_id, verification.side, verification.verified_at,
    verification.request_id
FROM unnest($3::text[], $4::bigint[], $5::bigint[], $6::bytea[]) WITH ORDINALITY
    AS wanted (call_sid, virtual_number, caller, digits_digest, position)
JOIN verification ON verification.cell = $1 AND verification.tenant_id = $2
    AND verification.call_sid = wanted.call_sid AND verification.virtual_number = wanted.virtual_number
    AND verification.caller = wanted.caller AND verification.digits_digest = wanted.digits_digest
ORDER BY wanted.position;
