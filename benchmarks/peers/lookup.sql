-- What the SQL peers ask, once a call. Every condition is a prefix of a primary key.

-- name: matches
-- No row: not a VN of the tenant. A row without an allocation: nobody's call there.
SELECT allocation.id AS allocation_id, match.needs_pin
FROM virtual_number
LEFT JOIN LATERAL (
    SELECT route.allocation_id, route.needs_pin
    FROM route
    WHERE route.cell = virtual_number.cell AND route.virtual_number = virtual_number.number AND route.number = $3
    UNION ALL
    SELECT pin_claim.allocation_id, false
    FROM pin_claim
    WHERE pin_claim.cell = virtual_number.cell AND pin_claim.virtual_number = virtual_number.number
        AND pin_claim.pin = $4 AND pin_claim.cooling_until IS NULL
) AS match ON true
LEFT JOIN allocation ON allocation.cell = virtual_number.cell AND allocation.id = match.allocation_id
    AND allocation.state = 'active' AND (allocation.expires_at IS NULL OR allocation.expires_at > now())
WHERE virtual_number.number = $2 AND virtual_number.tenant_id = $1;

-- name: whom_to_dial
-- The listed numbers of the other side, and the VN that they see.
SELECT
    ARRAY(SELECT party_number.number
          FROM party_number
          WHERE party_number.cell = allocation.cell AND party_number.allocation_id = allocation.id
              AND party_number.side <> route.side AND party_number.list_position IS NOT NULL
          ORDER BY party_number.list_position) AS targets,
    CASE route.side WHEN 'a' THEN allocation.b_virtual_numbers[1] ELSE allocation.a_virtual_numbers[1] END AS caller_id
FROM virtual_number
JOIN route ON route.cell = virtual_number.cell AND route.virtual_number = virtual_number.number AND route.number = $3
    AND NOT route.needs_pin
JOIN allocation ON allocation.cell = route.cell AND allocation.id = route.allocation_id
    AND allocation.state = 'active' AND (allocation.expires_at IS NULL OR allocation.expires_at > now())
WHERE virtual_number.number = $2 AND virtual_number.tenant_id = $1;
