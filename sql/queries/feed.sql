-- name: append
-- The last statement of its transaction, to hold the head as shortly as may be; the number of the last row.
WITH head AS (
    UPDATE feed_head SET n = n + cardinality($2::bigint[]) WHERE cell = $1 RETURNING n
), written AS (
    INSERT INTO feed (cell, n, tag, kind, body, written_at)
    SELECT $1, head.n - cardinality($2::bigint[]) + row.position, row.tag, row.kind, row.body, $5
    FROM head
    CROSS JOIN unnest($2::bigint[], $3::text[], $4::text[]) WITH ORDINALITY AS row (tag, kind, body, position)
)
SELECT n FROM head;

-- name: rows_after
-- The heads first: nearly always nothing is new, and a plan that was made while the feed was one page would
-- read all of it for every cell. Lateral, because the plain join is planned as a scan of the whole feed.
SELECT row.cell, row.n, row.tag, row.kind, row.body
FROM unnest($1::smallint[], $2::bigint[]) AS position (cell, n)
JOIN feed_head ON feed_head.cell = position.cell AND feed_head.n > position.n
CROSS JOIN LATERAL (
    SELECT feed.cell, feed.n, feed.tag, feed.kind, feed.body
    FROM feed
    WHERE feed.cell = position.cell AND feed.n > position.n
    ORDER BY feed.n
    LIMIT $3
) AS row
ORDER BY row.cell, row.n;

-- name: heads
SELECT feed_head.cell, feed_head.n, coalesce(feed.tag, 0) AS tag
FROM feed_head
LEFT JOIN feed ON feed.cell = feed_head.cell AND feed.n = feed_head.n
ORDER BY feed_head.cell;

-- name: tags_at
SELECT position.cell, feed.tag
FROM unnest($1::smallint[], $2::bigint[]) AS position (cell, n)
LEFT JOIN feed ON feed.cell = position.cell AND feed.n = position.n;

-- name: trim
DELETE FROM feed WHERE cell = $1 AND written_at < $2
    AND n < (SELECT feed_head.n FROM feed_head WHERE feed_head.cell = $1);

-- name: cells_with_old_rows
SELECT head.cell
FROM feed_head AS head
WHERE EXISTS (SELECT 1 FROM feed WHERE feed.cell = head.cell AND feed.written_at < $1 AND feed.n < head.n);

-- name: snapshot_tenants
SELECT tenant.cell, tenant.id, tenant.tenant_no, tenant.settings,
    ARRAY(SELECT credential.digest FROM credential
          WHERE credential.cell = tenant.cell AND credential.tenant_id = tenant.id AND credential.kind = 'api_token'
          ORDER BY credential.id) AS api_token_digests,
    ARRAY(SELECT credential.digest FROM credential
          WHERE credential.cell = tenant.cell AND credential.tenant_id = tenant.id AND credential.kind = 'api_token'
              AND credential.may_reveal
          ORDER BY credential.id) AS revealing_digests,
    ARRAY(SELECT credential.digest FROM credential
          WHERE credential.cell = tenant.cell AND credential.tenant_id = tenant.id AND credential.kind = 'applet_key'
          ORDER BY credential.id) AS applet_key_digests
FROM tenant
WHERE $1::text IS NULL OR tenant.id = $1;

-- name: snapshot_virtual_numbers
SELECT virtual_number.cell, virtual_number.number, virtual_number.region, virtual_number.type,
    virtual_number.is_reserved, virtual_number.is_drained, tenant.tenant_no
FROM virtual_number
JOIN tenant ON tenant.cell = virtual_number.cell AND tenant.id = virtual_number.tenant_id
WHERE $1::bigint[] IS NULL OR virtual_number.number = ANY($1);

-- name: database_id
SELECT id FROM installation;
