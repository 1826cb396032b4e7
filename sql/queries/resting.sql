-- name: cells_to_rest
SELECT feed_head.cell
FROM feed_head
WHERE EXISTS (SELECT 1 FROM event
              WHERE event.cell = feed_head.cell AND event.state = 'delivered' AND event.finished_at IS NOT NULL
                  AND event.facts_are = 'whole')
    OR EXISTS (SELECT 1 FROM event
               WHERE event.cell = feed_head.cell AND event.state = 'dead' AND event.finished_at < $1
                   AND event.facts_are = 'whole')
    OR EXISTS (SELECT 1 FROM verification
               WHERE verification.cell = feed_head.cell AND verification.verified_at < $2
                   AND length(verification.digits_digest) <= 16)
ORDER BY feed_head.cell;

-- name: whole_events
SELECT resting.id, resting.facts
FROM (VALUES ('delivered', timestamptz 'infinity'), ('dead', $2)) AS wanted (state, before)
CROSS JOIN LATERAL (
    SELECT event.id, event.facts
    FROM event
    WHERE event.cell = $1 AND event.state = wanted.state AND event.finished_at < wanted.before
        AND event.facts_are = 'whole'
    ORDER BY event.finished_at
    LIMIT $3
    FOR UPDATE SKIP LOCKED
) AS resting;

-- name: keep
UPDATE event
SET facts = resting.facts, facts_are = resting.facts_are, sealed_with = resting.sealed_with
FROM unnest($2::uuid[], $3::jsonb[], $4::text[], $5::text[]) AS resting (id, facts, facts_are, sealed_with)
WHERE event.cell = $1 AND event.id = resting.id;

-- name: forget_digits
-- Longer than a digest, so that it is known for what it is.
WITH old AS MATERIALIZED (
    SELECT tenant_id, call_sid, virtual_number, caller, digits_digest
    FROM verification
    WHERE cell = $1 AND verified_at < $2 AND length(digits_digest) <= 16
    ORDER BY verified_at
    LIMIT $3
    FOR UPDATE SKIP LOCKED
)
UPDATE verification
SET digits_digest = '\x00'::bytea || uuid_send(gen_random_uuid())
FROM old
WHERE verification.cell = $1 AND verification.tenant_id = old.tenant_id AND verification.call_sid = old.call_sid
    AND verification.virtual_number = old.virtual_number AND verification.caller = old.caller
    AND verification.digits_digest = old.digits_digest;
