-- name: insert
-- The first outcome of an entry stands, however often and wherever it is sent again.
INSERT INTO verification (cell, tenant_id, call_sid, virtual_number, caller, digits_digest, outcome, reason,
    allocation_id, side, verified_at, request_id)
SELECT $1, new.tenant_id, new.call_sid, new.virtual_number, new.caller, new.digits_digest, new.outcome, new.reason,
    new.allocation_id, new.side, new.verified_at, new.request_id
FROM unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bytea[], $7::text[], $8::text[], $9::uuid[],
    $10::text[], $11::timestamptz[], $12::text[])
    AS new (tenant_id, call_sid, virtual_number, caller, digits_digest, outcome, reason, allocation_id, side, verified_at,
            request_id)
ORDER BY new.tenant_id, new.call_sid, new.virtual_number, new.caller, new.digits_digest
ON CONFLICT DO NOTHING
RETURNING tenant_id, call_sid, virtual_number, caller, digits_digest;

-- name: of_calls
-- All that is on record, what has been told before what has not: of one entry that stands first. Lateral, because a
-- plan that is made while the tables are small would read all of the cell.
SELECT entry.tenant_id, entry.call_sid, entry.virtual_number, entry.caller, entry.digits_digest, entry.outcome,
    entry.allocation_id, entry.side
FROM unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[]) AS call (tenant_id, call_sid, virtual_number, caller)
CROSS JOIN LATERAL (
    (SELECT verification.tenant_id, verification.call_sid, verification.virtual_number, verification.caller,
         verification.digits_digest, verification.outcome, verification.allocation_id, verification.side,
         verification.verified_at, false AS is_untold
     FROM verification
     WHERE verification.cell = $1 AND verification.tenant_id = call.tenant_id
         AND verification.call_sid = call.call_sid AND verification.virtual_number = call.virtual_number
         AND verification.caller = call.caller
     OFFSET 0)
    UNION ALL
    (SELECT untold.tenant_id, untold.call_sid, untold.virtual_number, untold.caller, untold.digits_digest,
         untold.outcome, untold.allocation_id, untold.side, untold.verified_at, true
     FROM untold_outcome AS untold
     WHERE untold.cell = $1 AND untold.tenant_id = call.tenant_id AND untold.call_sid = call.call_sid
         AND untold.virtual_number = call.virtual_number AND untold.caller = call.caller
     OFFSET 0)
) AS entry
ORDER BY entry.is_untold, entry.verified_at;

-- name: recent_failures
SELECT tenant_id, call_sid, virtual_number, caller, digits_digest, verified_at
FROM verification
WHERE cell = ANY($1::smallint[]) AND verified_at > $2 AND outcome = 'failure'
UNION ALL
SELECT tenant_id, call_sid, virtual_number, caller, digits_digest, verified_at
FROM untold_outcome
WHERE cell = ANY($1::smallint[]) AND verified_at > $2 AND outcome = 'failure'
ORDER BY verified_at;

-- name: set_failures
-- Wrong PINs of allocations' own people, counted while the rows are locked.
UPDATE allocation
SET pin_failures = counted.failures, version = allocation.version + 1
FROM unnest($2::uuid[], $3::smallint[]) AS counted (allocation_id, failures)
WHERE allocation.cell = $1 AND allocation.id = counted.allocation_id AND allocation.state = 'active';

-- name: products_of_lines
-- Whether live allocations of each product stand on these VNs. The few that have ended and wait for the sweep
-- are stepped over.
SELECT asked.virtual_number,
    EXISTS (SELECT 1
            FROM vn_use
            JOIN allocation ON allocation.cell = $1 AND allocation.id = vn_use.allocation_id
            WHERE vn_use.cell = $1 AND vn_use.virtual_number = asked.virtual_number AND vn_use.product = 'greenvn'
                AND (allocation.expires_at IS NULL OR allocation.expires_at > $3)) AS has_greenvn,
    EXISTS (SELECT 1
            FROM vn_use
            JOIN allocation ON allocation.cell = $1 AND allocation.id = vn_use.allocation_id
            WHERE vn_use.cell = $1 AND vn_use.virtual_number = asked.virtual_number AND vn_use.product = 'greenpin'
                AND (allocation.expires_at IS NULL OR allocation.expires_at > $3)) AS has_greenpin
FROM unnest($2::bigint[]) AS asked (virtual_number);
