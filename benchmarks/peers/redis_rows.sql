-- Every key of the Redis peer with its record: owners of VNs, routes, and PINs with the route they open.
SELECT 'vn:' || virtual_number.number AS key, virtual_number.tenant_id AS record
FROM virtual_number
UNION ALL
SELECT
    match.key,
    json_build_object(
        'needs_pin', match.needs_pin,
        'expires_at_s', extract(epoch FROM coalesce(allocation.expires_at, '2999-01-01')),
        'targets', ARRAY(SELECT party_number.number
                         FROM party_number
                         WHERE party_number.cell = allocation.cell AND party_number.allocation_id = allocation.id
                             AND party_number.side <> match.side AND party_number.list_position IS NOT NULL
                         ORDER BY party_number.list_position),
        'caller_id', CASE match.side
            WHEN 'a' THEN allocation.b_virtual_numbers[1] ELSE allocation.a_virtual_numbers[1] END
    )::text
FROM (
    SELECT 'route:' || route.virtual_number || ':' || route.number AS key, route.cell, route.allocation_id,
        route.side, route.needs_pin
    FROM route
    UNION ALL
    SELECT 'pin:' || pin_claim.virtual_number || ':' || pin_claim.pin, pin_claim.cell, pin_claim.allocation_id,
        pin_claim.side, false
    FROM pin_claim
) AS match
JOIN allocation ON allocation.cell = match.cell AND allocation.id = match.allocation_id
WHERE allocation.state = 'active';
