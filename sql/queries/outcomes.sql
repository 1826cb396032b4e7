-- name: insert
-- The first outcome of an entry stands, however often and wherever it is sent again.
INSERT INTO verification (cell, tenant_id, call_sid, virtual_number, caller, digits_digest, outcome, reason,
    allocation_id, side, verified_at)
SELECT $1, new.tenant_id, new.call_sid, new.virtual_number, new.caller, new.digits_digest, new.outcome, new.reason,
    new.allocation_id, new.side, new.verified_at
FROM unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bytea[], $7::text[], $8::text[], $9::uuid[],
    $10::text[], $11::timestamptz[])
    AS new (tenant_id, call_sid, virtual_number, caller, digits_digest, outcome, reason, allocation_id, side, verified_at)
ORDER BY new.tenant_id, new.call_sid, new.virtual_number, new.caller, new.digits_digest
ON CONFLICT DO NOTHING
RETURNING tenant_id, call_sid, virtual_number, caller, digits_digest;

-- name: of_calls
SELECT verification.tenant_id, verification.call_sid, verification.virtual_number, verification.caller,
    verification.digits_digest, verification.outcome, verification.allocation_id, verification.side
FROM unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[]) AS call (tenant_id, call_sid, virtual_number, caller)
JOIN verification ON verification.cell = $1 AND verification.tenant_id = call.tenant_id
    AND verification.call_sid = call.call_sid AND verification.virtual_number = call.virtual_number
    AND verification.caller = call.caller
ORDER BY verification.verified_at;

-- name: recent_failures
SELECT tenant_id, virtual_number, caller, verified_at
FROM verification
WHERE cell = ANY($1::smallint[]) AND verified_at > $2 AND outcome = 'failure'
ORDER BY verified_at;

-- name: products_of_lines
-- What these VNs carry at this moment: GreenVN if nothing else, no row if nothing. An allocation has a route
-- or a PIN on each of its VNs. The first look ends with the first GreenPin, the second one with whatever is
-- there, so that only a VN of GreenVNs alone is read to its end.
SELECT asked.virtual_number, coalesce(
    (
        SELECT allocation.product
        FROM (
            SELECT route.allocation_id AS id
            FROM route
            WHERE route.cell = $1 AND route.virtual_number = asked.virtual_number
            UNION ALL
            SELECT pin_claim.allocation_id
            FROM pin_claim
            WHERE pin_claim.cell = $1 AND pin_claim.virtual_number = asked.virtual_number
                AND pin_claim.cooling_until IS NULL
        ) AS carried
        JOIN allocation ON allocation.cell = $1 AND allocation.id = carried.id
        WHERE allocation.product = 'greenpin' AND allocation.state = 'active'
            AND (allocation.expires_at IS NULL OR allocation.expires_at > $3)
        LIMIT 1
    ),
    (
        SELECT allocation.product
        FROM (
            SELECT route.allocation_id AS id
            FROM route
            WHERE route.cell = $1 AND route.virtual_number = asked.virtual_number
            UNION ALL
            SELECT pin_claim.allocation_id
            FROM pin_claim
            WHERE pin_claim.cell = $1 AND pin_claim.virtual_number = asked.virtual_number
                AND pin_claim.cooling_until IS NULL
        ) AS carried
        JOIN allocation ON allocation.cell = $1 AND allocation.id = carried.id
        WHERE allocation.state = 'active' AND (allocation.expires_at IS NULL OR allocation.expires_at > $3)
        LIMIT 1
    )
) AS product
FROM unnest($2::bigint[]) AS asked (virtual_number);
