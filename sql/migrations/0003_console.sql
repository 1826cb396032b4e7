-- What operators did at the console: who, from where, when, and to which object. Numbers and PINs never stand
-- here whole. Written in the transaction of the act, and before anything is shown. It outlives the tenant
-- that it is about, so it does not reference one; acts that are about none are in cell 0.
CREATE TABLE operator_act (
    cell           smallint    NOT NULL,
    id             uuid        NOT NULL,
    at             timestamptz NOT NULL,
    tenant_id      text,
    -- The name that was given at login: nobody proves it, the token is the same for all.
    operator       text        NOT NULL CHECK (length(operator) BETWEEN 1 AND 80),
    client_address text        NOT NULL,
    act            text        NOT NULL
        CHECK (act IN ('logged_in', 'logged_out', 'revealed', 'replayed', 'throttle_cleared', 'settings_changed')),
    object_kind    text        NOT NULL
        CHECK (object_kind IN ('session', 'allocation', 'call', 'explanation', 'event', 'throttles', 'settings')),
    object_id      text        NOT NULL,
    PRIMARY KEY (cell, id),
    -- Who logs in or out does nothing to a tenant, and everything else is about one.
    CHECK ((object_kind = 'session') = (tenant_id IS NULL))
);
CREATE INDEX operator_act_by_age ON operator_act (cell, at, id);
CREATE INDEX operator_act_of_tenant ON operator_act (cell, tenant_id, at, id);

-- What was decided at each hop of a call: the hop's instant in microseconds since 1970 UTC -> the applet, the
-- decision and its reason in words. An object, so that hops which are written twice stand once. NULL: nobody recorded them.
ALTER TABLE call ADD COLUMN hops jsonb;
