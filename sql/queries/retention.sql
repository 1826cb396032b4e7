-- name: tenants
SELECT cell, id, settings FROM tenant WHERE settings ->> 'retention_days' IS NOT NULL ORDER BY cell, id;

-- name: delete_old_calls
WITH old AS MATERIALIZED (
    SELECT page.call_sid, page.virtual_number, page.caller
    FROM unnest(ARRAY['connect', 'ask_pin', 'refuse']) AS wanted (decision)
    CROSS JOIN LATERAL (
        SELECT call.call_sid, call.virtual_number, call.caller
        FROM call
        WHERE call.cell = $1 AND call.tenant_id = $2 AND call.decision = wanted.decision
            AND call.first_hop_at < $3 AND call.last_hop_at < $3
        ORDER BY call.first_hop_at, call.call_sid, call.virtual_number, call.caller
        LIMIT $4
        FOR UPDATE SKIP LOCKED
    ) AS page
)
DELETE FROM call
USING old
WHERE call.cell = $1 AND call.tenant_id = $2 AND call.call_sid = old.call_sid
    AND call.virtual_number = old.virtual_number AND call.caller = old.caller;

-- name: delete_old_ends
WITH old AS MATERIALIZED (
    SELECT call_sid
    FROM call_end
    WHERE cell = $1 AND tenant_id = $2 AND ended_at < $3
    ORDER BY ended_at
    LIMIT $4
    FOR UPDATE SKIP LOCKED
)
DELETE FROM call_end
USING old
WHERE call_end.cell = $1 AND call_end.tenant_id = $2 AND call_end.call_sid = old.call_sid;

-- name: delete_old_verifications
WITH old AS MATERIALIZED (
    SELECT page.call_sid, page.virtual_number, page.caller, page.digits_digest
    FROM unnest(ARRAY['success', 'failure']) AS wanted (outcome)
    CROSS JOIN LATERAL (
        SELECT verification.call_sid, verification.virtual_number, verification.caller, verification.digits_digest
        FROM verification
        WHERE verification.cell = $1 AND verification.tenant_id = $2 AND verification.outcome = wanted.outcome
            AND verification.verified_at < $3
        ORDER BY verification.verified_at, verification.call_sid, verification.virtual_number,
            verification.caller, verification.digits_digest
        LIMIT $4
        FOR UPDATE SKIP LOCKED
    ) AS page
)
DELETE FROM verification
USING old
WHERE verification.cell = $1 AND verification.tenant_id = $2 AND verification.call_sid = old.call_sid
    AND verification.virtual_number = old.virtual_number AND verification.caller = old.caller
    AND verification.digits_digest = old.digits_digest;

-- name: old_events
SELECT id, subject
FROM event
WHERE cell = $1 AND tenant_id = $2 AND finished_at < $3
ORDER BY finished_at
LIMIT $4;

-- name: delete_events
-- One that was replayed meanwhile is to be told first.
DELETE FROM event WHERE cell = $1 AND id = ANY($2::uuid[]) AND finished_at < $3;

-- name: delete_idle_subjects
-- Locked before by a statement of its own: who writes an event of one holds it until that is committed and can be
-- seen. An allocation that is still there may have more to tell, and goes on counting.
DELETE FROM event_subject
WHERE event_subject.cell = $1 AND event_subject.tenant_id = $2 AND event_subject.subject = ANY($3::text[])
    AND event_subject.subject NOT IN (
        SELECT allocation.id::text FROM allocation WHERE allocation.cell = $1 AND allocation.id = ANY($4::uuid[])
    )
    AND NOT EXISTS (
        SELECT 1 FROM event
        WHERE event.cell = $1 AND event.tenant_id = $2 AND event.subject = event_subject.subject
    );

-- name: lock_old_allocations
SELECT id
FROM allocation
WHERE cell = $1 AND tenant_id = $2 AND state = 'vault' AND released_at < $3
ORDER BY released_at
LIMIT $4
FOR UPDATE SKIP LOCKED;

-- name: delete_calls_of
DELETE FROM call WHERE cell = $1 AND allocation_id = ANY($2::uuid[]);

-- name: delete_verifications_of
DELETE FROM verification WHERE cell = $1 AND allocation_id = ANY($2::uuid[]);

-- name: delete_pins_of
-- No cool-off is longer than a day, the shortest time that anything is kept.
DELETE FROM pin_claim WHERE cell = $1 AND allocation_id = ANY($2::uuid[]);

-- name: delete_cooling_numbers_of
DELETE FROM number_cooling WHERE cell = $1 AND allocation_id = ANY($2::uuid[]);

-- name: delete_parties_of
DELETE FROM party_number WHERE cell = $1 AND allocation_id = ANY($2::uuid[]);

-- name: delete_onces_of
DELETE FROM event_once
USING unnest($3::uuid[]) AS gone (id)
WHERE event_once.cell = $1 AND event_once.tenant_id = $2
    AND event_once.once_key >= 'verified:' || gone.id || ':' AND event_once.once_key < 'verified:' || gone.id || ';';

-- name: delete_allocations
-- One that was updated may have been carried by VNs that its row does not name any more: they are found by
-- stepping from one VN to the next in the index.
WITH RECURSIVE gone AS (
    DELETE FROM allocation
    WHERE cell = $1 AND tenant_id = $2 AND id = ANY($3::uuid[])
    RETURNING product, created_at, id, a_virtual_numbers || b_virtual_numbers AS virtual_numbers,
        updated_at IS NOT NULL AS was_updated
), line AS (
    SELECT updated.product,
        (SELECT min(carried.virtual_number) FROM carried_allocation AS carried
         WHERE carried.cell = $1 AND carried.tenant_id = $2 AND carried.product = updated.product) AS virtual_number
    FROM (SELECT DISTINCT gone.product FROM gone WHERE gone.was_updated) AS updated
    UNION ALL
    SELECT line.product,
        (SELECT min(carried.virtual_number) FROM carried_allocation AS carried
         WHERE carried.cell = $1 AND carried.tenant_id = $2 AND carried.product = line.product
             AND carried.virtual_number > line.virtual_number)
    FROM line
    WHERE line.virtual_number IS NOT NULL
), carrying AS (
    SELECT gone.product, gone.created_at, gone.id, named.virtual_number
    FROM gone
    CROSS JOIN LATERAL unnest(gone.virtual_numbers) AS named (virtual_number)
    UNION
    SELECT gone.product, gone.created_at, gone.id, line.virtual_number
    FROM gone
    JOIN line ON line.product = gone.product
    WHERE gone.was_updated AND line.virtual_number IS NOT NULL
)
DELETE FROM carried_allocation
USING carrying
WHERE carried_allocation.cell = $1 AND carried_allocation.tenant_id = $2
    AND carried_allocation.product = carrying.product
    AND carried_allocation.virtual_number = carrying.virtual_number
    AND carried_allocation.created_at = carrying.created_at AND carried_allocation.allocation_id = carrying.id;
