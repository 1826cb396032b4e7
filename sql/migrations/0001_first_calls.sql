-- Every table of calls and allocations begins its keys with `cell`, so that one call or one change
-- touches one cell and the schema can be distributed on that column. `tenant` and `virtual_number` are
-- how a cell is found: small directories, keyed by their outside names (reference tables when distributed).

-- One row: the name of this database, by which a node knows whether its board was made from it.
CREATE TABLE installation (
    id uuid NOT NULL PRIMARY KEY
);
INSERT INTO installation (id) VALUES (gen_random_uuid());

-- ── directories ──────────────────────────────────────────────────────────────

CREATE TABLE tenant (
    id         text        NOT NULL PRIMARY KEY CHECK (id ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    cell       smallint    NOT NULL CHECK (cell BETWEEN 0 AND 255),
    -- A short name for the keys of the board; its order means nothing.
    tenant_no  integer     NOT NULL GENERATED ALWAYS AS IDENTITY UNIQUE,
    settings   jsonb       NOT NULL,
    created_at timestamptz NOT NULL,
    UNIQUE (cell, id)
);

-- API tokens and applet keys: only their SHA-256 is kept.
CREATE TABLE credential (
    cell       smallint    NOT NULL,
    tenant_id  text        NOT NULL,
    kind       text        NOT NULL CHECK (kind IN ('api_token', 'applet_key')),
    id         uuid        NOT NULL,
    digest     bytea       NOT NULL CHECK (length(digest) = 32),
    -- Whether numbers and PINs are shown whole to who explains a call with it.
    may_reveal boolean     NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (cell, tenant_id, kind, id),
    FOREIGN KEY (cell, tenant_id) REFERENCES tenant (cell, id)
);

-- A number belongs to one tenant of the whole installation.
CREATE TABLE virtual_number (
    number     bigint      NOT NULL PRIMARY KEY CHECK (number BETWEEN 100 AND 999999999999999),
    cell       smallint    NOT NULL,
    tenant_id  text        NOT NULL,
    region     text,
    type       text        CHECK (type IN ('mobile', 'landline')),
    flow_id    text,
    -- Given by name only; or not given any more, while what stands on it stays.
    is_reserved boolean    NOT NULL DEFAULT false,
    is_drained boolean     NOT NULL DEFAULT false,
    -- It bears one allocation that wants it alone (second generation), and no other.
    is_exclusive boolean   NOT NULL DEFAULT false,
    -- Set when such a one was released with a cool-off: only it may come back before then.
    cooling_until timestamptz,
    cooling_for uuid,
    created_at timestamptz NOT NULL,
    UNIQUE (cell, number),
    UNIQUE (cell, number, is_exclusive),
    FOREIGN KEY (cell, tenant_id) REFERENCES tenant (cell, id),
    CHECK ((cooling_until IS NULL) = (cooling_for IS NULL))
);
CREATE INDEX virtual_number_of_tenant ON virtual_number (cell, tenant_id, number);

-- ── allocations ──────────────────────────────────────────────────────────────

CREATE TABLE allocation (
    cell               smallint    NOT NULL,
    id                 uuid        NOT NULL,
    tenant_id          text        NOT NULL,
    product            text        NOT NULL CHECK (product IN ('greenvn', 'greenpin')),
    -- The second generation of the API knows no such id.
    client_id          text,
    generation         smallint    NOT NULL CHECK (generation IN (1, 2)),
    usage              text        NOT NULL CHECK (usage IN ('oneway', 'twoway')),
    state              text        NOT NULL CHECK (state IN ('active', 'vault')),
    version            bigint      NOT NULL CHECK (version > 0),
    a_virtual_numbers  bigint[]    NOT NULL CHECK (cardinality(a_virtual_numbers) > 0),
    b_virtual_numbers  bigint[]    NOT NULL CHECK (cardinality(b_virtual_numbers) > 0),
    a_pins             text[]      NOT NULL CHECK (array_to_string(a_pins, ' ') ~ '^([0-9]{1,9}( [0-9]{1,9})*)?$'),
    b_pins             text[]      NOT NULL CHECK (array_to_string(b_pins, ' ') ~ '^([0-9]{1,9}( [0-9]{1,9})*)?$'),
    a_listed_need_pin  boolean     NOT NULL,
    b_listed_need_pin  boolean     NOT NULL,
    common_pin         boolean     NOT NULL,
    -- The tenant's `deletion_time` when it was made: how long its PINs rest after the release.
    cool_off_s         integer     NOT NULL CHECK (cool_off_s BETWEEN 0 AND 86400),
    -- Its VN bears no other; then wrong PINs of its own people are counted, and lock B out.
    is_exclusive       boolean     NOT NULL,
    pin_attempts_max   smallint    CHECK (pin_attempts_max > 0),
    pin_failures       smallint    NOT NULL DEFAULT 0 CHECK (pin_failures >= 0),
    record             boolean     NOT NULL,
    custom_field       text        CHECK (length(custom_field) <= 256),
    flow_id            text,
    a_tag              text,
    b_tag              text,
    created_at         timestamptz NOT NULL,
    updated_at         timestamptz,
    -- NULL: without end.
    expires_at         timestamptz,
    released_at        timestamptz,
    release_cause      text        CHECK (release_cause IN ('expired', 'requested')),
    PRIMARY KEY (cell, id),
    FOREIGN KEY (cell, tenant_id) REFERENCES tenant (cell, id),
    -- Vaulted means released, at a time and for a cause.
    CHECK ((state = 'vault') = (released_at IS NOT NULL)),
    CHECK ((state = 'vault') = (release_cause IS NOT NULL)),
    -- Nobody can be asked for a PIN that does not exist.
    CHECK (cardinality(a_pins) > 0 OR NOT a_listed_need_pin),
    CHECK (cardinality(b_pins) > 0 OR NOT b_listed_need_pin),
    -- A GreenPin side has one PIN at most.
    CHECK (product <> 'greenpin' OR (cardinality(a_pins) <= 1 AND cardinality(b_pins) <= 1)),
    -- A common PIN is the same on both sides.
    CHECK (NOT common_pin OR (cardinality(a_pins) = 1 AND a_pins = b_pins)),
    -- The first generation goes by the client's id, and shares its VNs.
    CHECK (generation = 2 OR (client_id IS NOT NULL AND NOT is_exclusive)),
    -- Only who is alone on a VN can be locked by guesses.
    CHECK (is_exclusive OR pin_failures = 0)
);
-- A client id names one active allocation of its product.
CREATE UNIQUE INDEX allocation_client_id ON allocation (cell, tenant_id, product, client_id) WHERE state = 'active';
CREATE INDEX allocation_to_expire ON allocation (cell, expires_at) WHERE state = 'active';
-- For the lists, newest first.
CREATE INDEX allocation_by_age ON allocation (cell, tenant_id, product, state, created_at, id);
CREATE INDEX allocation_by_client_id ON allocation (cell, tenant_id, product, client_id, created_at, id);
-- For the retention, oldest first.
CREATE INDEX allocation_by_release ON allocation (cell, tenant_id, released_at) WHERE state = 'vault';

-- Which allocations a VN carries or has carried, for the lists: routes and PINs go when an allocation is vaulted,
-- and its arrays cannot be indexed by age. A VN that was taken from an allocation stays; who reads this looks
-- at the allocation too. Without a reference, which would need an index of its own: the statements that put in
-- and delete allocations see to these rows as well.
CREATE TABLE carried_allocation (
    cell           smallint    NOT NULL,
    tenant_id      text        NOT NULL,
    product        text        NOT NULL,
    virtual_number bigint      NOT NULL,
    created_at     timestamptz NOT NULL,
    allocation_id  uuid        NOT NULL,
    PRIMARY KEY (cell, tenant_id, product, virtual_number, created_at, allocation_id)
);

-- The listed numbers and the members of an allocation. One row a number: nobody is on both sides.
CREATE TABLE party_number (
    cell          smallint    NOT NULL,
    allocation_id uuid        NOT NULL,
    number        bigint      NOT NULL,
    side          text        NOT NULL CHECK (side IN ('a', 'b')),
    -- Listed numbers have a place in the list, members have a time of joining.
    list_position smallint    CHECK (list_position BETWEEN 0 AND 9),
    joined_at     timestamptz,
    PRIMARY KEY (cell, allocation_id, number),
    FOREIGN KEY (cell, allocation_id) REFERENCES allocation (cell, id),
    CHECK ((list_position IS NULL) <> (joined_at IS NULL))
);
-- Which VN a pair of people had before, and lists by number.
CREATE INDEX party_number_of_number ON party_number (cell, number, allocation_id);

-- An allocation stands on a VN: one that wants it alone, or any number of others.
CREATE TABLE vn_use (
    cell           smallint NOT NULL,
    virtual_number bigint   NOT NULL,
    allocation_id  uuid     NOT NULL,
    is_exclusive   boolean  NOT NULL,
    product        text     NOT NULL CHECK (product IN ('greenvn', 'greenpin')),
    PRIMARY KEY (cell, virtual_number, allocation_id),
    -- What wants a VN alone and what does not never stand side by side.
    FOREIGN KEY (cell, virtual_number, is_exclusive) REFERENCES virtual_number (cell, number, is_exclusive),
    FOREIGN KEY (cell, allocation_id) REFERENCES allocation (cell, id)
);
-- Nor do two that want it alone.
CREATE UNIQUE INDEX vn_use_alone ON vn_use (cell, virtual_number) WHERE is_exclusive;
CREATE INDEX vn_use_of_allocation ON vn_use (cell, allocation_id);
-- What a VN carries decides how a wrong PIN is told of.
CREATE INDEX vn_use_by_product ON vn_use (cell, virtual_number, product);

-- Whether a number, dialling a VN, must enter a PIN there: one answer for all its routes.
CREATE TABLE caller_line (
    cell           smallint NOT NULL,
    virtual_number bigint   NOT NULL,
    number         bigint   NOT NULL,
    needs_pin      boolean  NOT NULL,
    PRIMARY KEY (cell, virtual_number, number),
    UNIQUE (cell, virtual_number, number, needs_pin)
);

CREATE TABLE route (
    cell           smallint NOT NULL,
    virtual_number bigint   NOT NULL,
    number         bigint   NOT NULL,
    allocation_id  uuid     NOT NULL,
    side           text     NOT NULL CHECK (side IN ('a', 'b')),
    needs_pin      boolean  NOT NULL,
    PRIMARY KEY (cell, virtual_number, number, allocation_id),
    -- Routes with and without PIN do not stand side by side.
    FOREIGN KEY (cell, virtual_number, number, needs_pin)
        REFERENCES caller_line (cell, virtual_number, number, needs_pin),
    -- A route leads to a party of its allocation.
    FOREIGN KEY (cell, allocation_id, number) REFERENCES party_number (cell, allocation_id, number),
    -- A VN with a route stays in the pool.
    FOREIGN KEY (cell, virtual_number) REFERENCES virtual_number (cell, number)
);
-- A route without PIN is its caller's only route on the VN.
CREATE UNIQUE INDEX route_without_pin ON route (cell, virtual_number, number) WHERE NOT needs_pin;
CREATE INDEX route_of_allocation ON route (cell, allocation_id, number);

-- A PIN on a VN belongs to one side of one allocation, or to one allocation with a common PIN.
CREATE TABLE pin_claim (
    cell           smallint NOT NULL,
    virtual_number bigint   NOT NULL,
    pin            text     NOT NULL CHECK (pin ~ '^[0-9]{1,9}$'),
    allocation_id  uuid     NOT NULL,
    side           text     NOT NULL CHECK (side IN ('a', 'b', 'both')),
    -- Set when it was released with a cool-off: nobody else gets the PIN before then.
    cooling_until  timestamptz,
    PRIMARY KEY (cell, virtual_number, pin),
    FOREIGN KEY (cell, allocation_id) REFERENCES allocation (cell, id),
    FOREIGN KEY (cell, virtual_number) REFERENCES virtual_number (cell, number)
);
CREATE INDEX pin_claim_of_allocation ON pin_claim (cell, allocation_id);
CREATE INDEX pin_claim_cooling ON pin_claim (cell, cooling_until) WHERE cooling_until IS NOT NULL;

-- A number whose route on a VN was released with a cool-off: the engine picks that VN for nobody of that
-- number before then, but for the same allocation.
CREATE TABLE number_cooling (
    cell           smallint    NOT NULL,
    virtual_number bigint      NOT NULL,
    number         bigint      NOT NULL,
    allocation_id  uuid        NOT NULL,
    cooling_until  timestamptz NOT NULL,
    PRIMARY KEY (cell, virtual_number, number),
    FOREIGN KEY (cell, allocation_id) REFERENCES allocation (cell, id),
    FOREIGN KEY (cell, virtual_number) REFERENCES virtual_number (cell, number)
);
CREATE INDEX number_cooling_of_number ON number_cooling (cell, number);
CREATE INDEX number_cooling_of_allocation ON number_cooling (cell, allocation_id);
CREATE INDEX number_cooling_ends ON number_cooling (cell, cooling_until);

-- The answer that a client gets again when it repeats a request under its Idempotency-Key.
CREATE TABLE idempotent_answer (
    cell          smallint    NOT NULL,
    tenant_id     text        NOT NULL,
    key           text        NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
    body_digest   bytea       NOT NULL CHECK (length(body_digest) = 32),
    allocation_id uuid        NOT NULL,
    answer        bytea       NOT NULL,
    -- The id of the data key that `answer` is sealed with; NULL: with none.
    sealed_with   text,
    created_at    timestamptz NOT NULL,
    PRIMARY KEY (cell, tenant_id, key),
    FOREIGN KEY (cell, tenant_id) REFERENCES tenant (cell, id)
);
CREATE INDEX idempotent_answer_by_age ON idempotent_answer (cell, created_at);
CREATE INDEX idempotent_answer_sealed ON idempotent_answer (cell, sealed_with) WHERE sealed_with IS NOT NULL;

-- ── calls ────────────────────────────────────────────────────────────────────

-- One outcome for each entry of a call, however often the platform repeats it. Caller 0 is withheld.
CREATE TABLE verification (
    cell           smallint    NOT NULL,
    tenant_id      text        NOT NULL,
    call_sid       text        NOT NULL,
    virtual_number bigint      NOT NULL,
    caller         bigint      NOT NULL,
    -- Tells equal entries of a call for as long as the call may go on, and whoever tries all PINs which it was;
    -- afterwards 17 random bytes.
    digits_digest  bytea       NOT NULL,
    outcome        text        NOT NULL CHECK (outcome IN ('success', 'failure')),
    reason         text        NOT NULL CHECK (reason IN ('right_pin', 'wrong_pin')),
    allocation_id  uuid,
    side           text        CHECK (side IN ('a', 'b')),
    verified_at    timestamptz NOT NULL,
    PRIMARY KEY (cell, tenant_id, call_sid, virtual_number, caller, digits_digest),
    -- A success names whom the caller was taken for.
    CHECK (outcome = 'failure' OR (allocation_id IS NOT NULL AND side IS NOT NULL)),
    CHECK ((outcome = 'success') = (reason = 'right_pin'))
);
CREATE INDEX verification_by_time ON verification (cell, verified_at);
-- Those of the last hours, whose digits could still be told.
CREATE INDEX verification_with_digits ON verification (cell, verified_at) WHERE length(digits_digest) <= 16;
-- For the lists, newest first. The outcome comes before the time, so that the rare one is not looked for among
-- the others; who wants both reads two ranges.
CREATE INDEX verification_by_age ON verification
    (cell, tenant_id, outcome, verified_at, call_sid, virtual_number, caller, digits_digest);
CREATE INDEX verification_by_caller ON verification
    (cell, tenant_id, caller, outcome, verified_at, call_sid, virtual_number, digits_digest);
CREATE INDEX verification_by_vn ON verification
    (cell, tenant_id, virtual_number, outcome, verified_at, call_sid, caller, digits_digest);
CREATE INDEX verification_of_allocation ON verification
    (cell, allocation_id, verified_at, call_sid, virtual_number, caller, digits_digest)
    WHERE allocation_id IS NOT NULL;

-- Windows of wrong PINs that an operator lifted: failures until then count no more in them. Number 0: the
-- scope has none.
CREATE TABLE throttle_cleared (
    cell      smallint    NOT NULL,
    tenant_id text        NOT NULL,
    scope     text        NOT NULL CHECK (scope IN ('caller', 'vn', 'tenant', 'all')),
    number    bigint      NOT NULL,
    at        timestamptz NOT NULL,
    PRIMARY KEY (cell, tenant_id, scope, number),
    FOREIGN KEY (cell, tenant_id) REFERENCES tenant (cell, id),
    -- Callers and VNs are numbers; the tenant and all of its windows are not.
    CHECK ((scope IN ('caller', 'vn')) = (number <> 0))
);

-- One row for each caller and VN of a call, with the last decision about it.
CREATE TABLE call (
    cell           smallint    NOT NULL,
    tenant_id      text        NOT NULL,
    call_sid       text        NOT NULL,
    virtual_number bigint      NOT NULL,
    caller         bigint      NOT NULL,
    decision       text        NOT NULL CHECK (decision IN ('connect', 'ask_pin', 'refuse')),
    reason         text,
    matched        text,
    allocation_id  uuid,
    side           text        CHECK (side IN ('a', 'b')),
    target         bigint,
    first_hop_at   timestamptz NOT NULL,
    last_hop_at    timestamptz NOT NULL,
    PRIMARY KEY (cell, tenant_id, call_sid, virtual_number, caller),
    CHECK ((decision = 'refuse') = (reason IS NOT NULL)),
    CHECK ((decision = 'connect') = (matched IS NOT NULL))
);
CREATE INDEX call_by_last_hop ON call (cell, last_hop_at);
-- For the lists, as those of `verification`.
CREATE INDEX call_by_age ON call (cell, tenant_id, decision, first_hop_at, call_sid, virtual_number, caller);
CREATE INDEX call_by_caller ON call (cell, tenant_id, caller, decision, first_hop_at, call_sid, virtual_number);
CREATE INDEX call_by_vn ON call (cell, tenant_id, virtual_number, decision, first_hop_at, call_sid, caller);
CREATE INDEX call_of_allocation ON call (cell, allocation_id, first_hop_at, call_sid, virtual_number, caller)
    WHERE allocation_id IS NOT NULL;

-- How a call ended: once for each CallSid; `unknown` where nobody said within the time.
CREATE TABLE call_end (
    cell                 smallint    NOT NULL,
    tenant_id            text        NOT NULL,
    call_sid             text        NOT NULL,
    call_type            text        NOT NULL
        CHECK (call_type IN ('completed', 'incomplete', 'client-hangup', 'voicemail', 'unknown')),
    dial_call_status     text,
    dialled              bigint,
    dial_call_duration_s integer,
    on_call_duration_s   integer,
    recording_url        text,
    start_time           text,
    -- What the platform says of the call to subscribers of Call Insights.
    insights             jsonb,
    ended_at             timestamptz NOT NULL,
    PRIMARY KEY (cell, tenant_id, call_sid)
);
CREATE INDEX call_end_by_age ON call_end (cell, tenant_id, ended_at);

-- ── what others are told ─────────────────────────────────────────────────────

-- The order number of a subject's events (subject: an allocation, else a CallSid).
CREATE TABLE event_subject (
    cell      smallint NOT NULL,
    tenant_id text     NOT NULL,
    subject   text     NOT NULL,
    seq       bigint   NOT NULL,
    PRIMARY KEY (cell, tenant_id, subject)
);

-- What may be told only once: the key belongs to whoever tells it first.
CREATE TABLE event_once (
    cell       smallint    NOT NULL,
    tenant_id  text        NOT NULL,
    -- Compared by its bytes, so that the keys of one allocation are a range.
    once_key   text        COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (cell, tenant_id, once_key)
);

-- The outbox, written in the transaction of what it tells.
CREATE TABLE event (
    cell         smallint    NOT NULL,
    id           uuid        NOT NULL,
    tenant_id    text        NOT NULL,
    subject      text        NOT NULL,
    seq          bigint      NOT NULL,
    product      text        NOT NULL CHECK (product IN ('greenvn', 'greenpin')),
    kind         text        NOT NULL CHECK (kind IN ('call_completed', 'deallocated', 'verified', 'verification_failed')),
    -- The tenant's setting that names the subscriber, and what it said when the event was written.
    endpoint_key text        NOT NULL,
    endpoint     text        NOT NULL,
    -- What happened; webhooks/payloads.py words it as the documented body.
    facts        jsonb       NOT NULL,
    -- Whole until it is told; afterwards masked, or sealed with the data key of that id.
    facts_are    text        NOT NULL DEFAULT 'whole' CHECK (facts_are IN ('whole', 'masked', 'sealed')),
    sealed_with  text,
    -- It tells of somebody who was erased meanwhile: masked when it is finished, whatever key there is.
    is_masked_after boolean  NOT NULL DEFAULT false,
    state        text        NOT NULL CHECK (state IN ('pending', 'delivered', 'dead')),
    -- Attempts begun, which also tells a sender from the one that took over its lease.
    attempts     integer     NOT NULL DEFAULT 0,
    -- When somebody asked for it to be told again, and the attempts until then: the schedule starts anew.
    replayed_at  timestamptz,
    attempts_before_replay integer NOT NULL DEFAULT 0,
    -- NULL while an earlier event of the subject is pending, which sets it when it is finished.
    due_at       timestamptz,
    leased_until timestamptz,
    last_result  text,
    created_at   timestamptz NOT NULL,
    finished_at  timestamptz,
    PRIMARY KEY (cell, id),
    -- The events of a subject are told one after the other.
    UNIQUE (cell, tenant_id, subject, seq),
    -- What is pending has no end, and what has an end is not pending.
    CHECK ((state = 'pending') = (finished_at IS NULL)),
    CHECK ((facts_are = 'sealed') = (sealed_with IS NOT NULL)),
    -- What is masked cannot be told any more, so nobody makes it pending again.
    CHECK (state <> 'pending' OR facts_are <> 'masked')
);
-- By endpoint, so that the backlog of one that is down is stepped over and not read through.
CREATE INDEX event_due ON event (cell, tenant_id, endpoint_key, due_at)
    WHERE state = 'pending' AND due_at IS NOT NULL;
CREATE INDEX event_pending_of_subject ON event (cell, tenant_id, subject, seq) WHERE state = 'pending';
-- For the retention, oldest first.
CREATE INDEX event_by_end ON event (cell, tenant_id, finished_at) WHERE finished_at IS NOT NULL;
-- Few: what is dead and may be told again, and what an engine before this rule has left.
CREATE INDEX event_whole ON event (cell, state, finished_at) WHERE finished_at IS NOT NULL AND facts_are = 'whole';
CREATE INDEX event_sealed ON event (cell, sealed_with) WHERE sealed_with IS NOT NULL;
-- For lists and replays: every state and kind is a range of its own, however rare it is among the others.
CREATE INDEX event_list ON event (cell, tenant_id, state, kind, created_at, id);

-- Every attempt to deliver an event: what was answered, or why nothing was. No address, nothing that was sent.
CREATE TABLE event_attempt (
    cell     smallint    NOT NULL,
    event_id uuid        NOT NULL,
    attempt  integer     NOT NULL,
    at       timestamptz NOT NULL,
    status   smallint,
    ms       integer     NOT NULL CHECK (ms >= 0),
    error    text        CHECK (error IN ('refused', 'timed_out', 'unreachable', 'forbidden', 'bad_endpoint',
                                          'not_worded', 'expired')),
    PRIMARY KEY (cell, event_id, attempt),
    -- An event that is erased takes its attempts along.
    FOREIGN KEY (cell, event_id) REFERENCES event (cell, id) ON DELETE CASCADE
);

-- What a tenant's events are signed with. Kept readable, because a signature is made with the secret itself.
CREATE TABLE webhook_secret (
    cell       smallint    NOT NULL,
    tenant_id  text        NOT NULL,
    id         uuid        NOT NULL,
    secret     text,
    created_at timestamptz NOT NULL,
    retired_at timestamptz,
    PRIMARY KEY (cell, tenant_id, id),
    FOREIGN KEY (cell, tenant_id) REFERENCES tenant (cell, id) ON DELETE CASCADE,
    -- A retired secret signs nothing more, so it is kept by its id alone.
    CHECK ((secret IS NULL) = (retired_at IS NOT NULL))
);

-- The feed: what changed, in commit order, without gaps within a cell (scale.md A.4).
CREATE TABLE feed_head (
    cell smallint NOT NULL PRIMARY KEY,
    n    bigint   NOT NULL
) WITH (fillfactor = 50);
INSERT INTO feed_head (cell, n) SELECT cell, 0 FROM generate_series(0, 255) AS cell;

CREATE TABLE feed (
    cell       smallint    NOT NULL,
    n          bigint      NOT NULL,
    -- Random: tells whether a position is of this history or of one that a restored backup undid.
    tag        bigint      NOT NULL,
    kind       text        NOT NULL,
    body       text        NOT NULL,
    written_at timestamptz NOT NULL,
    PRIMARY KEY (cell, n)
);
CREATE INDEX feed_by_age ON feed (cell, written_at);
