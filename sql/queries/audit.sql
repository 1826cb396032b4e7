-- name: insert
INSERT INTO operator_act (cell, id, at, tenant_id, operator, client_address, act, object_kind, object_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- name: acts
-- A page, newest first. Every cell is a range of its own.
SELECT page.id, page.at, page.tenant_id, page.operator, page.client_address, page.act, page.object_kind,
    page.object_id
FROM unnest($1::smallint[]) AS wanted (cell)
CROSS JOIN LATERAL (
    SELECT operator_act.id, operator_act.at, operator_act.tenant_id, operator_act.operator,
        operator_act.client_address, operator_act.act, operator_act.object_kind, operator_act.object_id
    FROM operator_act
    WHERE operator_act.cell = wanted.cell AND (operator_act.at, operator_act.id) < ($2, $3)
    ORDER BY operator_act.at DESC, operator_act.id DESC
    LIMIT $4
) AS page
ORDER BY page.at DESC, page.id DESC
LIMIT $4;

-- name: acts_of_tenant
SELECT id, at, tenant_id, operator, client_address, act, object_kind, object_id
FROM operator_act
WHERE cell = $1 AND tenant_id = $5 AND (at, id) < ($2, $3)
ORDER BY at DESC, id DESC
LIMIT $4;

-- name: delete_old
WITH old AS MATERIALIZED (
    SELECT id
    FROM operator_act
    WHERE cell = $1 AND at < $2
    ORDER BY at, id
    LIMIT $3
    FOR UPDATE SKIP LOCKED
)
DELETE FROM operator_act
USING old
WHERE operator_act.cell = $1 AND operator_act.id = old.id;

-- name: cells_with_old
SELECT feed_head.cell
FROM feed_head
WHERE EXISTS (SELECT 1 FROM operator_act WHERE operator_act.cell = feed_head.cell AND operator_act.at < $1);
