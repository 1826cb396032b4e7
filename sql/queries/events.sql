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
    due_at, created_at, request_id)
SELECT $1, new.id, new.tenant_id, new.subject, new.seq, new.product, new.kind, new.endpoint_key, new.endpoint,
    new.facts, 'pending',
    CASE WHEN new.seq = min(new.seq) OVER (PARTITION BY new.tenant_id, new.subject) AND (
        SELECT min(earlier.seq)
        FROM event AS earlier
        WHERE earlier.cell = $1 AND earlier.tenant_id = new.tenant_id AND earlier.subject = new.subject
            AND earlier.state = 'pending'
    ) IS NULL THEN $11::timestamptz END,
    $11, new.request_id
FROM unnest($2::uuid[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::text[], $8::text[], $9::text[],
        $10::jsonb[], $12::text[])
    AS new (id, tenant_id, subject, seq, product, kind, endpoint_key, endpoint, facts, request_id)
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
-- an order once broken cannot be mended. With $7, only those that were begun to be told before it.
WITH due AS MATERIALIZED (
    SELECT first.id
    FROM unnest($2::text[], $3::text[]) AS lane (tenant_id, endpoint_key)
    CROSS JOIN LATERAL (
        SELECT event.id
        FROM event
        WHERE event.cell = $1 AND event.tenant_id = lane.tenant_id AND event.endpoint_key = lane.endpoint_key
            AND event.state = 'pending' AND event.due_at <= $4
            AND (event.leased_until IS NULL OR event.leased_until <= $4)
            AND ($7::timestamptz IS NULL OR coalesce(event.replayed_at, event.created_at) < $7)
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
    event.attempts, event.attempts_before_replay, event.due_at, event.created_at, event.replayed_at,
    event.request_id,
    coalesce(
        (SELECT nullif(tenant.settings ->> event.endpoint_key, '')
         FROM tenant WHERE tenant.cell = $1 AND tenant.id = event.tenant_id),
        event.endpoint
    ) AS endpoint,
    ARRAY(
        SELECT webhook_secret.secret
        FROM webhook_secret
        WHERE webhook_secret.cell = $1 AND webhook_secret.tenant_id = event.tenant_id
            AND webhook_secret.retired_at IS NULL
        ORDER BY webhook_secret.created_at, webhook_secret.id
    ) AS secrets;

-- name: lock_subjects
-- By a statement of its own, so that the following ones see what was committed before the lock was ours.
SELECT event_subject.seq
FROM event_subject
JOIN unnest($2::text[], $3::text[]) AS asked (tenant_id, subject)
    ON event_subject.tenant_id = asked.tenant_id AND event_subject.subject = asked.subject
WHERE event_subject.cell = $1
ORDER BY event_subject.tenant_id, event_subject.subject
FOR UPDATE OF event_subject;

-- name: settle
-- What became of attempts. An event that is given back is not due if an earlier one of its subject was
-- replayed meanwhile: that one makes it due when it is finished. What is leased is pending; saying so by `state`
-- lets the planner take the index of what is pending for a short one, and read it through for each id.
UPDATE event
SET state = new.state, last_result = new.result, leased_until = NULL,
    finished_at = CASE WHEN new.state <> 'pending' THEN $7::timestamptz END,
    due_at = CASE
        WHEN new.state <> 'pending' THEN event.due_at
        WHEN event.seq = (
            SELECT min(pending.seq)
            FROM event AS pending
            WHERE pending.cell = $1 AND pending.tenant_id = event.tenant_id
                AND pending.subject = event.subject AND pending.state = 'pending'
        ) THEN new.due_at
    END,
    -- What is given back is kept as it is, and what was sealed stays so through a replay.
    facts = CASE
        WHEN new.state = 'pending' THEN event.facts
        WHEN event.is_masked_after THEN new.masked
        WHEN event.facts_are = 'sealed' THEN event.facts
        ELSE new.facts
    END,
    facts_are = CASE
        WHEN new.state = 'pending' THEN event.facts_are
        WHEN event.is_masked_after THEN 'masked'
        WHEN event.facts_are = 'sealed' THEN 'sealed'
        ELSE new.facts_are
    END,
    sealed_with = CASE
        WHEN new.state = 'pending' THEN event.sealed_with
        WHEN event.is_masked_after THEN NULL
        WHEN event.facts_are = 'sealed' THEN event.sealed_with
        ELSE new.sealed_with
    END
FROM unnest($2::uuid[], $3::integer[], $4::text[], $5::timestamptz[], $6::text[], $8::jsonb[], $9::jsonb[],
        $10::text[], $11::text[])
    AS new (id, attempt, state, due_at, result, masked, facts, facts_are, sealed_with)
WHERE event.cell = $1 AND event.id = new.id AND event.attempts = new.attempt AND event.leased_until IS NOT NULL
RETURNING event.id, event.attempts;

-- name: log_attempts
-- Those of a lost lease, too: they were made. Their event may have been erased meanwhile.
INSERT INTO event_attempt (cell, event_id, attempt, at, status, ms, error)
SELECT $1, new.event_id, new.attempt, new.at, new.status, new.ms, new.error
FROM unnest($2::uuid[], $3::integer[], $4::timestamptz[], $5::smallint[], $6::integer[], $7::text[])
    AS new (event_id, attempt, at, status, ms, error)
JOIN event ON event.cell = $1 AND event.id = new.event_id
ON CONFLICT DO NOTHING;

-- name: next_of_subjects
UPDATE event
SET due_at = $4
FROM unnest($2::text[], $3::text[]) AS ended (tenant_id, subject)
CROSS JOIN LATERAL (
    SELECT pending.id, pending.due_at
    FROM event AS pending
    WHERE pending.cell = $1 AND pending.tenant_id = ended.tenant_id AND pending.subject = ended.subject
        AND pending.state = 'pending'
    ORDER BY pending.cell, pending.tenant_id, pending.subject, pending.seq
    LIMIT 1
) AS first
WHERE event.cell = $1 AND event.id = first.id AND first.due_at IS NULL;

-- name: events
-- A page of a list, newest first; every state and kind that is wanted is a range of its own.
SELECT page.created_at, page.id
FROM unnest($3::text[]) AS wanted_state (state)
CROSS JOIN unnest($4::text[]) AS wanted_kind (kind)
CROSS JOIN LATERAL (
    SELECT event.created_at, event.id
    FROM event
    WHERE event.cell = $1 AND event.tenant_id = $2 AND event.state = wanted_state.state
        AND event.kind = wanted_kind.kind
        AND event.created_at >= $5 AND (event.created_at, event.id) < ($6, $7)
    ORDER BY event.created_at DESC, event.id DESC
    LIMIT $8
) AS page
ORDER BY page.created_at DESC, page.id DESC
LIMIT $8;

-- name: events_at
SELECT event.id, event.subject, event.seq, event.product, event.kind, event.state, event.attempts, event.due_at,
    event.created_at, event.replayed_at, event.finished_at, event.last_result, event.facts, event.facts_are,
    event.request_id,
    coalesce(nullif(tenant.settings ->> event.endpoint_key, ''), event.endpoint) AS endpoint
FROM event
LEFT JOIN tenant ON tenant.cell = $1 AND tenant.id = event.tenant_id
WHERE event.cell = $1 AND event.tenant_id = $2 AND event.id = ANY($3::uuid[])
ORDER BY event.created_at DESC, event.id DESC;

-- name: newest_of_subject
SELECT id
FROM event
WHERE cell = $1 AND tenant_id = $2 AND subject = $3
ORDER BY seq DESC
LIMIT $4;

-- name: attempts_of
SELECT attempt, at, status, ms, error
FROM event_attempt
WHERE cell = $1 AND event_id = $2
ORDER BY attempt DESC
LIMIT $3;

-- name: subject_of
SELECT subject FROM event WHERE cell = $1 AND tenant_id = $2 AND id = $3;

-- name: state_of
SELECT state FROM event WHERE cell = $1 AND tenant_id = $2 AND id = $3;

-- name: finished_subjects
-- The subjects of the next events to replay, in the order in which they were told of. Masked ones are stepped
-- over by whoever asks, so that a step stays a short one however many there are.
SELECT page.created_at, page.id, page.subject, page.facts_are
FROM unnest($4::text[]) AS wanted (kind)
CROSS JOIN LATERAL (
    SELECT event.created_at, event.id, event.subject, event.facts_are
    FROM event
    WHERE event.cell = $1 AND event.tenant_id = $2 AND event.state = $3 AND event.kind = wanted.kind
        AND event.created_at < $5 AND (event.created_at, event.id) > ($6, $7)
        AND (event.replayed_at IS NULL OR event.replayed_at < $8)
    ORDER BY event.created_at, event.id
    LIMIT $9
) AS page
ORDER BY page.created_at, page.id
LIMIT $9;

-- name: lock_due
-- So that what is claimed is claimed before or after, and not in between. A claim waits for no lock.
SELECT id
FROM event
WHERE cell = $1 AND tenant_id = $2 AND subject = ANY($3::text[]) AND state = 'pending' AND due_at IS NOT NULL
FOR UPDATE;

-- name: replay_one
UPDATE event
SET state = 'pending', replayed_at = $4, attempts_before_replay = attempts, finished_at = NULL, due_at = NULL
WHERE cell = $1 AND tenant_id = $2 AND id = $3 AND state <> 'pending' AND facts_are <> 'masked'
RETURNING id;

-- name: replay_of_subjects
UPDATE event
SET state = 'pending', replayed_at = $7, attempts_before_replay = attempts, finished_at = NULL, due_at = NULL
WHERE cell = $1 AND tenant_id = $2 AND subject = ANY($3::text[]) AND state = $4
    AND created_at >= $5 AND created_at < $6
    AND (replayed_at IS NULL OR replayed_at < $7) AND facts_are <> 'masked'
RETURNING id;

-- name: arrange_subjects
-- After a replay: the first pending event of each subject is due, and none of the others is. One of those may
-- be under way: then the first waits for as long as that may take.
UPDATE event
SET due_at = CASE WHEN event.seq = first.seq THEN first.free_at END
FROM (
    SELECT pending.subject, min(pending.seq) AS seq,
        greatest($4::timestamptz, max(pending.leased_until)) AS free_at
    FROM event AS pending
    WHERE pending.cell = $1 AND pending.tenant_id = $2 AND pending.subject = ANY($3::text[])
        AND pending.state = 'pending'
    GROUP BY pending.subject
) AS first
WHERE event.cell = $1 AND event.tenant_id = $2 AND event.subject = first.subject AND event.state = 'pending'
    AND (event.seq = first.seq) = (event.due_at IS NULL)
    AND (event.leased_until IS NULL OR event.leased_until <= $4);

-- name: pending_count
SELECT coalesce(sum(pending.events), 0)::bigint
FROM feed_head
CROSS JOIN LATERAL (
    SELECT count(*) AS events FROM event WHERE event.cell = feed_head.cell AND event.state = 'pending'
) AS pending;

-- name: pending
-- How many, $1 at most, and since when the oldest of them waits to be told, or to be told again. Reads their
-- rows: `due_at` is moved by every failed attempt, and so says nothing of an event's age. Of all cells at once:
-- asked cell by cell, and most events being one cell's, the planner reads the whole table for each of the 256.
-- Outcomes of which nobody has told yet are events that nobody has written down yet.
SELECT count(*) AS events, min(counted.begun_at) AS oldest_at
FROM (
    (SELECT coalesce(event.replayed_at, event.created_at) AS begun_at
     FROM event
     WHERE event.state = 'pending'
     LIMIT $1)
    UNION ALL
    (SELECT untold_outcome.recorded_at FROM untold_outcome LIMIT $1)
) AS counted;

-- name: dead_count
-- At most $1 of each tenant: without a retention they are kept for ever, and nobody deals with more by hand.
SELECT coalesce(sum(dead.events), 0)::bigint
FROM tenant
CROSS JOIN LATERAL (
    SELECT count(*) AS events
    FROM (
        SELECT 1
        FROM event
        WHERE event.cell = tenant.cell AND event.tenant_id = tenant.id AND event.state = 'dead'
        LIMIT $1
    ) AS counted
) AS dead;
