"""What a long run says while it runs, on stderr: the figures alone go to stdout."""

from __future__ import annotations

import sys
import time

_STARTED_S = time.perf_counter()


def say(text: str) -> None:
    print(f"{time.perf_counter() - _STARTED_S:7.1f} s  {text}", file=sys.stderr, flush=True)
