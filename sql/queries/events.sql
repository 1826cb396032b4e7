-- name: endpoints
-- Who wants to be told, among the settings asked for.
SELECT tenant.id AS tenant_id, asked.endpoint_key, tenant.settings ->> asked.endpoint_key AS endpoint
FROM unnest($2::text[], $3::text[]) AS asked (tenant_id, endpoint_key)
JOIN tenant ON tenant.cell = $1 AND tenant.id = asked.tenant_id
WHERE tenant.settings ->> asked.endpoint_key <> '';

-- name: take_once_keys
-- Waits for whoever is about to take the same key, so that exactly one gets it back.
INSERT INTO event_once (cell, tenant_id, once_key, created_at)
SELECT $1, new.tenant_id, new.once_key, $4
FROM unnest($2::text[], $3::text[]) AS new (tenant_id, once_key)
ORDER BY new.tenant_id, new.once_key
ON CONFLICT DO NOTHING
RETURNING tenant_id, once_key;

-- name: advance_subjects
-- Each subject stays locked until the commit: its events become visible in the order of their numbers.
INSERT INTO event_subject (cell, tenant_id, subject, seq)
SELECT $1, new.tenant_id, new.subject, new.events
FROM unnest($2::text[], $3::text[], $4::bigint[]) AS new (tenant_id, subject, events)
ORDER BY new.tenant_id, new.subject
ON CONFLICT (cell, tenant_id, subject) DO UPDATE SET seq = event_subject.seq + excluded.seq
RETURNING tenant_id, subject, seq;

-- name: insert
-- Only the first pending event of a subject is due. The lock on the subject keeps that true: here nobody
-- can finish that event meanwhile, and who finishes it finds this one. A minimum and not NOT EXISTS, which
-- may be planned as a join with everything that is pending.
INSERT INTO event (cell, id, tenant_id, subject, seq, product, kind, endpoint_key, endpoint, facts, state,
    due_at, created_at)
SELECT $1, new.id, new.tenant_id, new.subject, new.seq, new.product, new.kind, new.endpoint_key, new.endpoint,
    new.facts, 'pending',
    CASE WHEN new.seq = min(new.seq) OVER (PARTITION BY new.tenant_id, new.subject) AND (
        SELECT min(earlier.seq)
        FROM event AS earlier
        WHERE earlier.cell = $1 AND earlier.tenant_id = new.tenant_id AND earlier.subject = new.subject
            AND earlier.state = 'pending'
    ) IS NULL THEN $11::timestamptz END,
    $11
FROM unnest($2::uuid[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::text[], $8::text[], $9::text[],
        $10::jsonb[])
    AS new (id, tenant_id, subject, seq, product, kind, endpoint_key, endpoint, facts)
ORDER BY new.tenant_id, new.subject, new.seq;

-- name: pending_cells
-- Ordered like the index of due events, or the planner may read delivered ones to find a first.
SELECT feed_head.cell
FROM feed_head
CROSS JOIN LATERAL (
    SELECT event.cell
    FROM event
    WHERE event.cell = feed_head.cell AND event.state = 'pending' AND event.due_at IS NOT NULL
    ORDER BY event.cell, event.tenant_id, event.endpoint_key, event.due_at
    LIMIT 1
) AS pending
ORDER BY feed_head.cell;

-- name: lanes
-- The endpoints of a cell that have pending events, found by stepping from one to the next in the index,
-- each with the time and the present address of the event that has been due the longest.
WITH RECURSIVE lane AS (
    (
        SELECT event.tenant_id, event.endpoint_key, event.due_at, event.endpoint
        FROM event
        WHERE event.cell = $1 AND event.state = 'pending' AND event.due_at IS NOT NULL
        ORDER BY event.cell, event.tenant_id, event.endpoint_key, event.due_at
        LIMIT 1
    )
    UNION ALL
    SELECT following.tenant_id, following.endpoint_key, following.due_at, following.endpoint
    FROM lane
    CROSS JOIN LATERAL (
        SELECT event.tenant_id, event.endpoint_key, event.due_at, event.endpoint
        FROM event
        WHERE event.cell = $1 AND event.state = 'pending' AND event.due_at IS NOT NULL
            AND (event.tenant_id, event.endpoint_key) > (lane.tenant_id, lane.endpoint_key)
        ORDER BY event.cell, event.tenant_id, event.endpoint_key, event.due_at
        LIMIT 1
    ) AS following
)
SELECT lane.tenant_id, lane.endpoint_key, lane.due_at,
    coalesce(nullif(tenant.settings ->> lane.endpoint_key, ''), lane.endpoint) AS endpoint
FROM lane
LEFT JOIN tenant ON tenant.cell = $1 AND tenant.id = lane.tenant_id
ORDER BY lane.due_at, lane.tenant_id, lane.endpoint_key;

-- name: claim
-- That no earlier event of the subject is pending follows from `due_at`. It is looked at again, because
-- an order once broken cannot be mended.
WITH due AS MATERIALIZED (
    SELECT first.id
    FROM unnest($2::text[], $3::text[]) AS lane (tenant_id, endpoint_key)
    CROSS JOIN LATERAL (
        SELECT event.id
        FROM event
        WHERE event.cell = $1 AND event.tenant_id = lane.tenant_id AND event.endpoint_key = lane.endpoint_key
            AND event.state = 'pending' AND event.due_at <= $4
            AND (event.leased_until IS NULL OR event.leased_until <= $4)
            AND event.seq = (
                SELECT min(pending.seq)
                FROM event AS pending
                WHERE pending.cell = $1 AND pending.tenant_id = event.tenant_id
                    AND pending.subject = event.subject AND pending.state = 'pending'
            )
        ORDER BY event.cell, event.tenant_id, event.endpoint_key, event.due_at
        LIMIT $6
        FOR UPDATE OF event SKIP LOCKED
    ) AS first
    LIMIT $6
)
UPDATE event
SET leased_until = $5, attempts = event.attempts + 1
FROM due
WHERE event.cell = $1 AND event.id = due.id
RETURNING event.cell, event.id, event.tenant_id, event.subject, event.seq, event.product, event.kind, event.facts,
    event.attempts, event.due_at, event.created_at,
    coalesce(
        (SELECT nullif(tenant.settings ->> event.endpoint_key, '')
         FROM tenant WHERE tenant.cell = $1 AND tenant.id = event.tenant_id),
        event.endpoint
    ) AS endpoint;

-- name: lock_subject
SELECT seq FROM event_subject WHERE cell = $1 AND tenant_id = $2 AND subject = $3 FOR UPDATE;

-- name: finish
UPDATE event
SET state = $4, last_result = $5, finished_at = $6, leased_until = NULL,
    -- What was sealed stays so through a replay.
    facts = CASE WHEN is_masked_after THEN $7::jsonb WHEN facts_are = 'sealed' THEN facts ELSE $8::jsonb END,
    facts_are = CASE WHEN is_masked_after THEN 'masked' WHEN facts_are = 'sealed' THEN 'sealed' ELSE $9 END,
    sealed_with = CASE WHEN is_masked_after THEN NULL WHEN facts_are = 'sealed' THEN sealed_with ELSE $10 END
WHERE cell = $1 AND id = $2 AND attempts = $3 AND state = 'pending'
RETURNING id;

-- name: retry
UPDATE event
SET due_at = $4, last_result = $5, leased_until = NULL
WHERE cell = $1 AND id = $2 AND attempts = $3 AND state = 'pending'
RETURNING id;

-- name: next_of_subject
UPDATE event
SET due_at = $4
WHERE cell = $1 AND tenant_id = $2 AND subject = $3 AND due_at IS NULL AND state = 'pending'
    AND seq = (
        SELECT min(pending.seq)
        FROM event AS pending
        WHERE pending.cell = $1 AND pending.tenant_id = $2 AND pending.subject = $3 AND pending.state = 'pending'
    );

-- name: pending_count
SELECT coalesce(sum(pending.events), 0)::bigint
FROM feed_head
CROSS JOIN LATERAL (
    SELECT count(*) AS events FROM event WHERE event.cell = feed_head.cell AND event.state = 'pending'
) AS pending;
