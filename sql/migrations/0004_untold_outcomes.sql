-- Outcomes that are on record and of which nothing else has been told yet: the member that a right PIN makes, the
-- events, the windows of wrong PINs. A row lives for the milliseconds until its transaction; what a killed engine left
-- is told by the next one. `body` has the digits as they were keyed, as the event that comes of it will.
CREATE TABLE untold_outcome (
    cell           smallint    NOT NULL,
    tenant_id      text        NOT NULL,
    call_sid       text        NOT NULL,
    virtual_number bigint      NOT NULL,
    caller         bigint      NOT NULL,
    digits_digest  bytea       NOT NULL,
    body           jsonb       NOT NULL,
    recorded_at    timestamptz NOT NULL,
    PRIMARY KEY (cell, tenant_id, call_sid, virtual_number, caller, digits_digest),
    -- Whoever forgets an outcome forgets this.
    FOREIGN KEY (cell, tenant_id, call_sid, virtual_number, caller, digits_digest)
        REFERENCES verification (cell, tenant_id, call_sid, virtual_number, caller, digits_digest)
        ON UPDATE CASCADE ON DELETE CASCADE
);
