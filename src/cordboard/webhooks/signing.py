"""What tells a receiver that an event is ours: the headers of the Standard Webhooks scheme."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from standardwebhooks import Webhook


def sign(secrets: Sequence[str], id: UUID, at: datetime, body: bytes) -> dict[str, str]:
    """With two secrets, as while one is rotated, both sign, and a receiver needs only one of them.

    `at` is of the attempt and says its zone; the id is the event's, the same in all attempts.
    """
    assert at.tzinfo is not None, "the scheme's clock is UTC"
    headers = {"webhook-id": str(id), "webhook-timestamp": str(int(at.timestamp()))}
    if secrets:
        text = body.decode()
        headers["webhook-signature"] = " ".join(Webhook(secret).sign(str(id), at, text) for secret in secrets)
    return headers
