-- Which request brought it about: what a client, a proxy and the log call it by, so that one can be found by
-- another. NULL: no request did (an expiry), or an engine before this version wrote the row, which knows
-- nothing of the column and leaves it out.

-- Of the hop with the last decision.
ALTER TABLE call ADD COLUMN request_id text;

-- Of the hop that entered the digits first.
ALTER TABLE verification ADD COLUMN request_id text;

-- Of the request that reported the end.
ALTER TABLE call_end ADD COLUMN request_id text;

-- Of what the event tells; its deliveries bear it as `cordboard-request-id`.
ALTER TABLE event ADD COLUMN request_id text;
