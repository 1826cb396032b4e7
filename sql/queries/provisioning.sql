-- name: least_used_cell
SELECT feed_head.cell
FROM feed_head
LEFT JOIN tenant ON tenant.cell = feed_head.cell
GROUP BY feed_head.cell
ORDER BY count(tenant.id), feed_head.cell
LIMIT 1;

-- name: insert_tenant
INSERT INTO tenant (id, cell, settings, created_at)
VALUES ($1, $2, $3, $4)
ON CONFLICT DO NOTHING
RETURNING tenant_no;

-- name: tenant
SELECT id, cell, tenant_no, settings, created_at FROM tenant WHERE id = $1;

-- name: lock_tenant
SELECT id, cell, tenant_no, settings, created_at FROM tenant WHERE id = $1 FOR UPDATE;

-- name: tenants
SELECT tenant.id, tenant.cell, tenant.created_at,
    (SELECT count(*) FROM virtual_number
     WHERE virtual_number.cell = tenant.cell AND virtual_number.tenant_id = tenant.id) AS virtual_numbers
FROM tenant
ORDER BY tenant.id;

-- name: update_settings
UPDATE tenant SET settings = $2 WHERE id = $1;

-- name: insert_credential
INSERT INTO credential (cell, tenant_id, kind, id, digest, may_reveal, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7);

-- name: delete_credential
DELETE FROM credential WHERE cell = $1 AND tenant_id = $2 AND kind = $3 AND id = $4;

-- name: credentials
SELECT id, may_reveal, created_at FROM credential WHERE cell = $1 AND tenant_id = $2 AND kind = $3 ORDER BY created_at, id;

-- name: insert_webhook_secret
INSERT INTO webhook_secret (cell, tenant_id, id, secret, created_at) VALUES ($1, $2, $3, $4, $5);

-- name: webhook_secrets
SELECT id, created_at, retired_at FROM webhook_secret WHERE cell = $1 AND tenant_id = $2 ORDER BY created_at, id;

-- name: retire_webhook_secret
UPDATE webhook_secret
SET secret = NULL, retired_at = $4
WHERE cell = $1 AND tenant_id = $2 AND id = $3 AND retired_at IS NULL
RETURNING id;

-- name: insert_virtual_numbers
INSERT INTO virtual_number (number, cell, tenant_id, region, type, flow_id, is_reserved, created_at)
SELECT new.number, $1, $2, new.region, new.type, new.flow_id, new.is_reserved, $8
FROM unnest($3::bigint[], $4::text[], $5::text[], $6::text[], $7::boolean[])
    AS new (number, region, type, flow_id, is_reserved)
ORDER BY new.number
ON CONFLICT DO NOTHING
RETURNING number;

-- name: virtual_numbers
SELECT number, region, type, flow_id, is_reserved, is_drained, created_at
FROM virtual_number
WHERE cell = $1 AND tenant_id = $2
ORDER BY number;

-- name: lock_virtual_number
SELECT number FROM virtual_number WHERE cell = $1 AND tenant_id = $2 AND number = $3 FOR UPDATE;

-- name: live_allocations_on
SELECT allocation.id, allocation.expires_at
FROM vn_use
JOIN allocation ON allocation.cell = $1 AND allocation.id = vn_use.allocation_id
WHERE vn_use.cell = $1 AND vn_use.virtual_number = $2 AND allocation.state = 'active';

-- name: set_virtual_number_state
UPDATE virtual_number
SET is_drained = coalesce($4, is_drained), is_reserved = coalesce($5, is_reserved)
WHERE cell = $1 AND tenant_id = $2 AND number = $3
RETURNING number;

-- name: delete_cooling_numbers_on
DELETE FROM number_cooling WHERE cell = $1 AND virtual_number = $2;

-- name: delete_cooling_pins_on
DELETE FROM pin_claim WHERE cell = $1 AND virtual_number = $2 AND cooling_until IS NOT NULL;

-- name: delete_virtual_number
DELETE FROM virtual_number WHERE cell = $1 AND tenant_id = $2 AND number = $3;

-- name: live_allocations_of
SELECT id, expires_at FROM allocation WHERE cell = $1 AND tenant_id = $2 AND state = 'active';

-- name: delete_tenant
-- In the order of their references; each statement takes one tenant's rows of one cell.
DELETE FROM tenant WHERE cell = $1 AND id = $2;

-- name: delete_tenant_pins
DELETE FROM pin_claim USING allocation
WHERE pin_claim.cell = $1 AND allocation.cell = $1 AND allocation.id = pin_claim.allocation_id
    AND allocation.tenant_id = $2;

-- name: delete_tenant_cooling_numbers
DELETE FROM number_cooling USING allocation
WHERE number_cooling.cell = $1 AND allocation.cell = $1 AND allocation.id = number_cooling.allocation_id
    AND allocation.tenant_id = $2;

-- name: delete_tenant_parties
DELETE FROM party_number USING allocation
WHERE party_number.cell = $1 AND allocation.cell = $1 AND allocation.id = party_number.allocation_id
    AND allocation.tenant_id = $2;

-- name: delete_tenant_answers
DELETE FROM idempotent_answer WHERE cell = $1 AND tenant_id = $2;

-- name: delete_tenant_carried
DELETE FROM carried_allocation WHERE cell = $1 AND tenant_id = $2;

-- name: delete_tenant_allocations
DELETE FROM allocation WHERE cell = $1 AND tenant_id = $2;

-- name: delete_tenant_virtual_numbers
DELETE FROM virtual_number WHERE cell = $1 AND tenant_id = $2 RETURNING number;

-- name: delete_tenant_credentials
DELETE FROM credential WHERE cell = $1 AND tenant_id = $2;

-- name: delete_tenant_throttles
DELETE FROM throttle_cleared WHERE cell = $1 AND tenant_id = $2;

-- name: delete_tenant_webhook_secrets
DELETE FROM webhook_secret WHERE cell = $1 AND tenant_id = $2;

-- name: delete_tenant_untold_outcomes
DELETE FROM untold_outcome WHERE cell = $1 AND tenant_id = $2;

-- name: delete_tenant_verifications
DELETE FROM verification WHERE cell = $1 AND tenant_id = $2;

-- name: delete_tenant_calls
DELETE FROM call WHERE cell = $1 AND tenant_id = $2;

-- name: delete_tenant_call_ends
DELETE FROM call_end WHERE cell = $1 AND tenant_id = $2;

-- name: lock_tenant_event_subjects
SELECT subject FROM event_subject WHERE cell = $1 AND tenant_id = $2 ORDER BY subject FOR UPDATE;

-- name: delete_tenant_events
DELETE FROM event WHERE cell = $1 AND tenant_id = $2;

-- name: delete_tenant_event_onces
DELETE FROM event_once WHERE cell = $1 AND tenant_id = $2;

-- name: delete_tenant_event_subjects
DELETE FROM event_subject WHERE cell = $1 AND tenant_id = $2;
