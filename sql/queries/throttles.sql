-- name: clear
-- A clock that went back must not bring failures back.
INSERT INTO throttle_cleared (cell, tenant_id, scope, number, at)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (cell, tenant_id, scope, number) DO UPDATE SET at = greatest(throttle_cleared.at, excluded.at);

-- name: cleared
SELECT tenant_id, scope, number, at FROM throttle_cleared;

-- name: forget_cleared
DELETE FROM throttle_cleared WHERE cell = ANY($1::smallint[]) AND at < $2;
