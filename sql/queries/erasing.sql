-- What the indexes do not find by a number is walked through in the order of its key, one step a transaction:
-- erasing is rare, and an index for it would cost every call. A boolean says that it is only counted.

-- name: tenants
SELECT cell, id FROM tenant WHERE $1::text IS NULL OR id = $1 ORDER BY cell, id;

-- name: live_allocations
SELECT allocation.id
FROM party_number
JOIN allocation ON allocation.cell = $1 AND allocation.id = party_number.allocation_id
WHERE party_number.cell = $1 AND party_number.number = $3
    AND allocation.tenant_id = $2 AND allocation.state = 'active'
ORDER BY allocation.id;

-- name: party
SELECT list_position IS NULL AS is_member
FROM party_number
WHERE cell = $1 AND allocation_id = $2 AND number = $3;

-- name: routes_of_member
SELECT virtual_number, side, needs_pin FROM route WHERE cell = $1 AND allocation_id = $2 AND number = $3;

-- name: delete_party
DELETE FROM party_number WHERE cell = $1 AND allocation_id = $2 AND number = $3;

-- name: delete_cooling_of_party
DELETE FROM number_cooling WHERE cell = $1 AND allocation_id = $2 AND number = $3;

-- name: delete_vaulted_parties
WITH found AS MATERIALIZED (
    SELECT party_number.allocation_id
    FROM party_number
    JOIN allocation ON allocation.cell = $1 AND allocation.id = party_number.allocation_id
    WHERE party_number.cell = $1 AND party_number.number = $3 AND allocation.tenant_id = $2
        AND allocation.state = 'vault' AND party_number.allocation_id > $4
    ORDER BY party_number.allocation_id
    LIMIT $6
), gone AS (
    DELETE FROM party_number
    USING found
    WHERE party_number.cell = $1 AND party_number.allocation_id = found.allocation_id
        AND party_number.number = $3 AND NOT $5::boolean
)
SELECT allocation_id FROM found ORDER BY allocation_id;

-- name: delete_cooling
-- Of one number on all VNs of a tenant: as many rows as it has left in a day.
WITH found AS MATERIALIZED (
    SELECT number_cooling.virtual_number
    FROM number_cooling
    JOIN allocation ON allocation.cell = $1 AND allocation.id = number_cooling.allocation_id
    WHERE number_cooling.cell = $1 AND number_cooling.number = $3 AND allocation.tenant_id = $2
), gone AS (
    DELETE FROM number_cooling
    USING found
    WHERE number_cooling.cell = $1 AND number_cooling.virtual_number = found.virtual_number
        AND number_cooling.number = $3 AND NOT $4::boolean
)
SELECT count(*) AS found FROM found;

-- name: delete_lifted
WITH found AS MATERIALIZED (
    SELECT number FROM throttle_cleared WHERE cell = $1 AND tenant_id = $2 AND scope = 'caller' AND number = $3
), gone AS (
    DELETE FROM throttle_cleared
    USING found
    WHERE throttle_cleared.cell = $1 AND throttle_cleared.tenant_id = $2 AND throttle_cleared.scope = 'caller'
        AND throttle_cleared.number = found.number AND NOT $4::boolean
)
SELECT count(*) AS found FROM found;

-- name: last_word
SELECT feed.body
FROM feed_head
JOIN feed ON feed.cell = $1 AND feed.n = feed_head.n
WHERE feed_head.cell = $1;

-- name: walk_calls
-- A step; with it go how those calls ended.
WITH step AS MATERIALIZED (
    SELECT call_sid, virtual_number, caller, target
    FROM call
    WHERE cell = $1 AND tenant_id = $2 AND (call_sid, virtual_number, caller) > ($5, $6, $7)
    ORDER BY call_sid, virtual_number, caller
    LIMIT $8
), found AS MATERIALIZED (
    SELECT call_sid, virtual_number, caller FROM step WHERE caller = $3 OR target = $3
), gone AS (
    DELETE FROM call
    USING found
    WHERE call.cell = $1 AND call.tenant_id = $2 AND call.call_sid = found.call_sid
        AND call.virtual_number = found.virtual_number AND call.caller = found.caller AND NOT $4::boolean
), ends AS MATERIALIZED (
    SELECT call_end.call_sid
    FROM call_end
    WHERE call_end.cell = $1 AND call_end.tenant_id = $2 AND call_end.call_sid IN (SELECT found.call_sid FROM found)
), ends_gone AS (
    DELETE FROM call_end
    USING ends
    WHERE call_end.cell = $1 AND call_end.tenant_id = $2 AND call_end.call_sid = ends.call_sid AND NOT $4::boolean
)
SELECT call_sid, virtual_number, caller, (SELECT count(*) FROM found) AS found, (SELECT count(*) FROM ends) AS ends
FROM step
ORDER BY call_sid DESC, virtual_number DESC, caller DESC
LIMIT 1;

-- name: walk_ends
-- The platform dialled somebody whom the call's record does not name. Its row stays, or the call would be
-- closed a second time, as one of which nothing was heard.
WITH step AS MATERIALIZED (
    SELECT call_sid, dialled FROM call_end
    WHERE cell = $1 AND tenant_id = $2 AND call_sid > $5
    ORDER BY call_sid
    LIMIT $6
), found AS MATERIALIZED (
    SELECT step.call_sid
    FROM step
    WHERE step.dialled = $3 AND NOT EXISTS (
        -- Counted with its call.
        SELECT 1 FROM call
        WHERE call.cell = $1 AND call.tenant_id = $2 AND call.call_sid = step.call_sid
            AND (call.caller = $3 OR call.target = $3)
    )
), gone AS (
    UPDATE call_end
    SET dialled = NULL, recording_url = NULL
    FROM found
    WHERE call_end.cell = $1 AND call_end.tenant_id = $2 AND call_end.call_sid = found.call_sid AND NOT $4::boolean
)
SELECT call_sid, (SELECT count(*) FROM found) AS found FROM step ORDER BY call_sid DESC LIMIT 1;

-- name: delete_verifications
-- By the index of callers, a batch of each outcome.
WITH found AS MATERIALIZED (
    SELECT page.call_sid, page.virtual_number, page.digits_digest
    FROM unnest(ARRAY['success', 'failure']) AS wanted (outcome)
    CROSS JOIN LATERAL (
        SELECT verification.call_sid, verification.virtual_number, verification.digits_digest
        FROM verification
        WHERE verification.cell = $1 AND verification.tenant_id = $2 AND verification.caller = $3
            AND verification.outcome = wanted.outcome
        LIMIT $5
    ) AS page
), gone AS (
    DELETE FROM verification
    USING found
    WHERE verification.cell = $1 AND verification.tenant_id = $2 AND verification.call_sid = found.call_sid
        AND verification.virtual_number = found.virtual_number AND verification.caller = $3
        AND verification.digits_digest = found.digits_digest AND NOT $4::boolean
)
SELECT count(*) AS found FROM found;

-- name: walk_onces
WITH step AS MATERIALIZED (
    SELECT once_key FROM event_once
    WHERE cell = $1 AND tenant_id = $2 AND once_key > $5
    ORDER BY once_key
    LIMIT $6
), found AS MATERIALIZED (
    -- Keys are `verified:<allocation>:+<number>`.
    SELECT once_key FROM step WHERE split_part(once_key, ':', 3) = $3
), gone AS (
    DELETE FROM event_once
    USING found
    WHERE event_once.cell = $1 AND event_once.tenant_id = $2 AND event_once.once_key = found.once_key
        AND NOT $4::boolean
)
SELECT once_key, (SELECT count(*) FROM found) AS found FROM step ORDER BY once_key DESC LIMIT 1;

-- name: walk_events
SELECT id, subject, seq, state, facts, is_masked_after
FROM event
WHERE cell = $1 AND tenant_id = $2 AND (subject, seq) > ($3, $4) AND facts_are <> 'masked'
ORDER BY subject, seq
LIMIT $5;

-- name: lock_finished_events
SELECT id, facts
FROM event
WHERE cell = $1 AND id = ANY($2::uuid[]) AND finished_at IS NOT NULL AND facts_are <> 'masked'
FOR UPDATE;

-- name: mask_after
-- Whoever is delivering one finds this when it is finished.
UPDATE event
SET is_masked_after = true
WHERE cell = $1 AND id = ANY($2::uuid[]) AND state = 'pending' AND NOT is_masked_after;

-- name: walk_answers
SELECT key, answer, sealed_with
FROM idempotent_answer
WHERE cell = $1 AND tenant_id = $2 AND key > $3
ORDER BY key
LIMIT $4;

-- name: delete_answers
DELETE FROM idempotent_answer WHERE cell = $1 AND tenant_id = $2 AND key = ANY($3::text[]);
