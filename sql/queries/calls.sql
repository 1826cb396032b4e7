-- name: upsert
-- The last decision about a call stands in its row; the first hop keeps its time. The rows come as one JSON
-- text, because encoding eleven arrays would take the process that answers calls four times as long.
-- Hops of a row are added until they are $3 characters; a call that goes on for ever must not grow for ever.
INSERT INTO call (cell, tenant_id, call_sid, virtual_number, caller, decision, reason, matched, allocation_id, side,
    target, hops, first_hop_at, last_hop_at, request_id)
SELECT $1, new.tenant_id, new.call_sid, new.virtual_number, new.caller, new.decision, new.reason, new.matched,
    new.allocation_id, new.side, new.target, new.hops, hop.at, hop.at, new.request_id
FROM jsonb_to_recordset($2)
    AS new (tenant_id text, call_sid text, virtual_number bigint, caller bigint, decision text, reason text,
            matched text, allocation_id uuid, side text, target bigint, hops jsonb, at_us bigint,
            request_id text)
CROSS JOIN LATERAL (SELECT timestamptz 'epoch' + new.at_us * interval '1 microsecond' AS at) AS hop
ORDER BY new.tenant_id, new.call_sid, new.virtual_number, new.caller
ON CONFLICT (cell, tenant_id, call_sid, virtual_number, caller) DO UPDATE
-- What another process writes later may be of an earlier hop: then it adds its hop and decides nothing.
SET decision = CASE WHEN call.last_hop_at <= excluded.last_hop_at THEN excluded.decision ELSE call.decision END,
    reason = CASE WHEN call.last_hop_at <= excluded.last_hop_at THEN excluded.reason ELSE call.reason END,
    matched = CASE WHEN call.last_hop_at <= excluded.last_hop_at THEN excluded.matched ELSE call.matched END,
    allocation_id = CASE WHEN call.last_hop_at <= excluded.last_hop_at THEN excluded.allocation_id ELSE call.allocation_id END,
    side = CASE WHEN call.last_hop_at <= excluded.last_hop_at THEN excluded.side ELSE call.side END,
    target = CASE WHEN call.last_hop_at <= excluded.last_hop_at THEN excluded.target ELSE call.target END,
    request_id = CASE WHEN call.last_hop_at <= excluded.last_hop_at THEN excluded.request_id ELSE call.request_id END,
    hops = CASE WHEN length(call.hops::text) >= $3 THEN call.hops
                ELSE coalesce(call.hops || excluded.hops, call.hops, excluded.hops) END,
    last_hop_at = greatest(call.last_hop_at, excluded.last_hop_at);

-- name: insert_ends
-- The first end that the platform reports stands; `unknown` was only our guess.
INSERT INTO call_end (cell, tenant_id, call_sid, call_type, dial_call_status, dialled, dial_call_duration_s,
    on_call_duration_s, recording_url, start_time, insights, ended_at, request_id)
SELECT $1, new.tenant_id, new.call_sid, new.call_type, new.dial_call_status, new.dialled, new.dial_call_duration_s,
    new.on_call_duration_s, new.recording_url, new.start_time, new.insights, new.ended_at,
    new.request_id
FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::integer[], $8::integer[], $9::text[],
    $10::text[], $11::jsonb[], $12::timestamptz[], $13::text[])
    AS new (tenant_id, call_sid, call_type, dial_call_status, dialled, dial_call_duration_s, on_call_duration_s,
            recording_url, start_time, insights, ended_at, request_id)
ORDER BY new.tenant_id, new.call_sid
ON CONFLICT (cell, tenant_id, call_sid) DO UPDATE
SET call_type = excluded.call_type, dial_call_status = excluded.dial_call_status, dialled = excluded.dialled,
    dial_call_duration_s = excluded.dial_call_duration_s, on_call_duration_s = excluded.on_call_duration_s,
    recording_url = excluded.recording_url, start_time = excluded.start_time, insights = excluded.insights,
    ended_at = excluded.ended_at, request_id = excluded.request_id
WHERE call_end.call_type = 'unknown'
RETURNING tenant_id, call_sid;

-- name: allocations_of_calls
-- A CallSid with several callers or VNs has several rows; the last one with an allocation was dialled.
SELECT DISTINCT ON (call.tenant_id, call.call_sid)
    call.tenant_id, call.call_sid, call.virtual_number, call.caller, call.target, allocation.id, allocation.client_id,
    allocation.product, allocation.generation, allocation.a_tag, allocation.b_tag, allocation.custom_field,
    allocation.record
FROM unnest($2::text[], $3::text[]) AS ended (tenant_id, call_sid)
JOIN call ON call.cell = $1 AND call.tenant_id = ended.tenant_id AND call.call_sid = ended.call_sid
JOIN allocation ON allocation.cell = $1 AND allocation.id = call.allocation_id
WHERE call.decision = 'connect'
ORDER BY call.tenant_id, call.call_sid, call.last_hop_at DESC;

-- name: cells_with_open_calls
SELECT feed_head.cell
FROM feed_head
WHERE EXISTS (SELECT 1 FROM call WHERE call.cell = feed_head.cell AND call.last_hop_at BETWEEN $1 AND $2);

-- name: close_silent
-- Nobody told how these ended.
INSERT INTO call_end (cell, tenant_id, call_sid, call_type, ended_at)
SELECT DISTINCT call.cell, call.tenant_id, call.call_sid, 'unknown', $4::timestamptz
FROM call
WHERE call.cell = $1 AND call.last_hop_at BETWEEN $2 AND $3
    AND NOT EXISTS (
        SELECT 1 FROM call_end
        WHERE call_end.cell = $1 AND call_end.tenant_id = call.tenant_id AND call_end.call_sid = call.call_sid
    )
ON CONFLICT DO NOTHING;
