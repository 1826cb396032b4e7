-- name: keys_in_use
-- By steps from one key to the next in the index: a handful a cell, however much is sealed.
WITH RECURSIVE of_events AS (
    (SELECT cell, sealed_with FROM event WHERE sealed_with IS NOT NULL ORDER BY cell, sealed_with LIMIT 1)
    UNION ALL
    SELECT following.cell, following.sealed_with
    FROM of_events
    CROSS JOIN LATERAL (
        SELECT event.cell, event.sealed_with
        FROM event
        WHERE event.sealed_with IS NOT NULL
            AND (event.cell, event.sealed_with) > (of_events.cell, of_events.sealed_with)
        ORDER BY event.cell, event.sealed_with
        LIMIT 1
    ) AS following
), of_answers AS (
    (SELECT cell, sealed_with FROM idempotent_answer WHERE sealed_with IS NOT NULL
     ORDER BY cell, sealed_with LIMIT 1)
    UNION ALL
    SELECT following.cell, following.sealed_with
    FROM of_answers
    CROSS JOIN LATERAL (
        SELECT answer.cell, answer.sealed_with
        FROM idempotent_answer AS answer
        WHERE answer.sealed_with IS NOT NULL
            AND (answer.cell, answer.sealed_with) > (of_answers.cell, of_answers.sealed_with)
        ORDER BY answer.cell, answer.sealed_with
        LIMIT 1
    ) AS following
)
SELECT sealed_with FROM of_events
UNION
SELECT sealed_with FROM of_answers;

-- name: cells_sealed_with
SELECT feed_head.cell
FROM feed_head
WHERE EXISTS (SELECT 1 FROM event WHERE event.cell = feed_head.cell AND event.sealed_with = $1)
    OR EXISTS (SELECT 1 FROM idempotent_answer AS answer
               WHERE answer.cell = feed_head.cell AND answer.sealed_with = $1)
ORDER BY feed_head.cell;

-- name: events_sealed_with
SELECT id, tenant_id, subject FROM event WHERE cell = $1 AND sealed_with = $2 LIMIT $3;

-- name: lock_sealed_events
SELECT id, facts FROM event WHERE cell = $1 AND sealed_with = $2 AND id = ANY($3::uuid[]) FOR UPDATE;

-- name: reseal_events
UPDATE event
SET facts = sealed.facts, sealed_with = $4
FROM unnest($2::uuid[], $3::jsonb[]) AS sealed (id, facts)
WHERE event.cell = $1 AND event.id = sealed.id;

-- name: answers_sealed_with
SELECT tenant_id, key, answer FROM idempotent_answer WHERE cell = $1 AND sealed_with = $2 LIMIT $3 FOR UPDATE;

-- name: reseal_answers
UPDATE idempotent_answer
SET answer = sealed.answer, sealed_with = $5
FROM unnest($2::text[], $3::text[], $4::bytea[]) AS sealed (tenant_id, key, answer)
WHERE idempotent_answer.cell = $1 AND idempotent_answer.tenant_id = sealed.tenant_id
    AND idempotent_answer.key = sealed.key;
