-- The planner knows nothing of a table whose rows live for a moment, and plans that are made for few would read all
-- that were. So these ask row by row, in forms that only an index can answer.

-- name: put_on_record
-- One statement, which commits itself. `has_more`: the call has entries besides those given, this one told among
-- them; then the first one stands, and whoever asks looks again.
INSERT INTO untold_outcome AS untold (cell, tenant_id, call_sid, virtual_number, caller, digits_digest, outcome,
    allocation_id, side, verified_at, body, recorded_at)
SELECT $1, new.tenant_id, new.call_sid, new.virtual_number, new.caller, new.digits_digest, new.outcome,
    new.allocation_id, new.side, new.verified_at, new.body, $12
FROM unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bytea[], $7::text[], $8::uuid[], $9::text[],
    $10::timestamptz[], $11::jsonb[])
    AS new (tenant_id, call_sid, virtual_number, caller, digits_digest, outcome, allocation_id, side, verified_at, body)
ORDER BY new.tenant_id, new.call_sid, new.virtual_number, new.caller, new.digits_digest
ON CONFLICT DO NOTHING
RETURNING untold.tenant_id, untold.call_sid, untold.virtual_number, untold.caller, untold.digits_digest,
    (SELECT count(*)
     FROM verification
     WHERE verification.cell = $1 AND verification.tenant_id = untold.tenant_id
         AND verification.call_sid = untold.call_sid AND verification.virtual_number = untold.virtual_number
         AND verification.caller = untold.caller)
    + (SELECT count(*)
       FROM untold_outcome AS other
       WHERE other.cell = $1 AND other.tenant_id = untold.tenant_id AND other.call_sid = untold.call_sid
           AND other.virtual_number = untold.virtual_number AND other.caller = untold.caller) > 0 AS has_more;

-- name: take
-- Whoever deletes the row tells of it, in the same transaction. By their places, which stay theirs while locked.
DELETE FROM untold_outcome
WHERE untold_outcome.ctid = ANY (ARRAY(
    SELECT found.place
    FROM unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bytea[])
        AS told (tenant_id, call_sid, virtual_number, caller, digits_digest)
    CROSS JOIN LATERAL (
        SELECT untold.ctid AS place
        FROM untold_outcome AS untold
        WHERE untold.cell = $1 AND untold.tenant_id = told.tenant_id AND untold.call_sid = told.call_sid
            AND untold.virtual_number = told.virtual_number AND untold.caller = told.caller
            AND untold.digits_digest = told.digits_digest
        FOR UPDATE
    ) AS found
))
RETURNING untold_outcome.tenant_id, untold_outcome.call_sid, untold_outcome.virtual_number, untold_outcome.caller,
    untold_outcome.digits_digest, untold_outcome.body;

-- name: left
-- Of processes that are gone: those that live tell of theirs within milliseconds.
SELECT cell, body
FROM untold_outcome
WHERE cell = ANY($1::smallint[]) AND recorded_at <= $2
ORDER BY recorded_at, call_sid
LIMIT $3;
