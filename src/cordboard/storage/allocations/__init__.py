"""Allocations in PostgreSQL. What two requests may not both have is refused by the constraints of `sql/`."""

from cordboard.storage.allocations.joining import Join, join
from cordboard.storage.allocations.making import (
    AnsweredBefore,
    Idempotency,
    Made,
    MakeResult,
    NewAllocation,
    TryAgain,
    cells_to_clear,
    clear_cell,
    kept_answer,
    make,
)
from cordboard.storage.allocations.reading import Found, Member, find, lock_many, members
from cordboard.storage.allocations.releasing import (
    Released,
    ReleasedBefore,
    ReleaseRequest,
    ReleaseResult,
    Unknown,
    ended_ids,
    release,
    release_changes,
    release_ended,
)
from cordboard.storage.allocations.rows import ClientIdTaken, NumberTaken, PinTaken, Taken
from cordboard.storage.allocations.updating import (
    AlreadyReleased,
    Conflict,
    NotFound,
    lock_for_update,
    update,
)

__all__ = [
    "AlreadyReleased",
    "AnsweredBefore",
    "ClientIdTaken",
    "Conflict",
    "Found",
    "Idempotency",
    "Join",
    "Made",
    "MakeResult",
    "Member",
    "NewAllocation",
    "NotFound",
    "NumberTaken",
    "PinTaken",
    "ReleaseRequest",
    "ReleaseResult",
    "Released",
    "ReleasedBefore",
    "Taken",
    "TryAgain",
    "Unknown",
    "cells_to_clear",
    "clear_cell",
    "ended_ids",
    "find",
    "join",
    "kept_answer",
    "lock_for_update",
    "lock_many",
    "make",
    "members",
    "release",
    "release_changes",
    "release_ended",
    "update",
]
