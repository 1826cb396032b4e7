-- name: put_on_record
-- One statement, which commits itself: the outcome with what is still to be told of it, and all that is on record
-- of its call. The first outcome of an entry stands, however often and wherever it is sent again.
WITH new AS (
    SELECT *
    FROM unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bytea[], $7::text[], $8::text[], $9::uuid[],
        $10::text[], $11::timestamptz[], $12::text[], $13::jsonb[])
        AS new (tenant_id, call_sid, virtual_number, caller, digits_digest, outcome, reason, allocation_id, side,
                verified_at, request_id, body)
), written AS (
    INSERT INTO verification (cell, tenant_id, call_sid, virtual_number, caller, digits_digest, outcome, reason,
        allocation_id, side, verified_at, request_id)
    SELECT $1, new.tenant_id, new.call_sid, new.virtual_number, new.caller, new.digits_digest, new.outcome, new.reason,
        new.allocation_id, new.side, new.verified_at, new.request_id
    FROM new
    ORDER BY new.tenant_id, new.call_sid, new.virtual_number, new.caller, new.digits_digest
    ON CONFLICT DO NOTHING
    RETURNING tenant_id, call_sid, virtual_number, caller, digits_digest, outcome, allocation_id, side, verified_at
), untold AS (
    INSERT INTO untold_outcome (cell, tenant_id, call_sid, virtual_number, caller, digits_digest, body, recorded_at)
    SELECT $1, new.tenant_id, new.call_sid, new.virtual_number, new.caller, new.digits_digest, new.body, $14
    FROM written
    JOIN new USING (tenant_id, call_sid, virtual_number, caller, digits_digest)
    WHERE new.body IS NOT NULL
)
SELECT written.tenant_id, written.call_sid, written.virtual_number, written.caller, written.digits_digest,
    written.outcome, written.allocation_id, written.side, written.verified_at
FROM written
UNION ALL
-- What was there before; lateral, because plans that are made while the table is small would read all of it.
SELECT before.*
FROM (SELECT DISTINCT tenant_id, call_sid, virtual_number, caller FROM new) AS call
CROSS JOIN LATERAL (
    SELECT verification.tenant_id, verification.call_sid, verification.virtual_number, verification.caller,
        verification.digits_digest, verification.outcome, verification.allocation_id, verification.side,
        verification.verified_at
    FROM verification
    WHERE verification.cell = $1 AND verification.tenant_id = call.tenant_id
        AND verification.call_sid = call.call_sid AND verification.virtual_number = call.virtual_number
        AND verification.caller = call.caller
    OFFSET 0
) AS before
ORDER BY verified_at;

-- name: take
-- Whoever deletes the row tells of it, in the same transaction.
DELETE FROM untold_outcome
USING unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bytea[])
    AS told (tenant_id, call_sid, virtual_number, caller, digits_digest)
WHERE untold_outcome.cell = $1 AND untold_outcome.tenant_id = told.tenant_id
    AND untold_outcome.call_sid = told.call_sid AND untold_outcome.virtual_number = told.virtual_number
    AND untold_outcome.caller = told.caller AND untold_outcome.digits_digest = told.digits_digest
RETURNING untold_outcome.tenant_id, untold_outcome.call_sid, untold_outcome.virtual_number, untold_outcome.caller,
    untold_outcome.digits_digest, untold_outcome.body;

-- name: left
-- Of processes that are gone: those that live tell of theirs within milliseconds.
SELECT cell, body
FROM untold_outcome
WHERE cell = ANY($1::smallint[]) AND recorded_at <= $2
ORDER BY recorded_at, call_sid
LIMIT $3;
