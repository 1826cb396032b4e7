-- Outcomes as they are answered: on record, and nothing told of them yet. Each goes on to `verification`, with the
-- member and the events that follow, in the one transaction that deletes it here. That is a moment later; what a
-- killed engine left, the next one tells. A caller waits for this one row and its one index.
CREATE TABLE untold_outcome (
    cell           smallint    NOT NULL,
    tenant_id      text        NOT NULL,
    call_sid       text        NOT NULL,
    virtual_number bigint      NOT NULL,
    caller         bigint      NOT NULL,
    digits_digest  bytea       NOT NULL,
    outcome        text        NOT NULL CHECK (outcome IN ('success', 'failure')),
    allocation_id  uuid,
    side           text        CHECK (side IN ('a', 'b')),
    verified_at    timestamptz NOT NULL,
    -- All of it, with the digits as they were keyed, as in the event that comes of it.
    body           jsonb       NOT NULL,
    recorded_at    timestamptz NOT NULL,
    -- One outcome for each entry of a call, as in `verification`.
    PRIMARY KEY (cell, tenant_id, call_sid, virtual_number, caller, digits_digest),
    CHECK (outcome = 'failure' OR (allocation_id IS NOT NULL AND side IS NOT NULL))
);
