"""What the harness itself can do, against a server that does as little as one in Python can.

The highest rate is the generator's ceiling; what is measured at a rate cannot be faster than the floor.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from benchmarks.constant import BODY
from benchmarks.cores import Cores, cpu_s
from benchmarks.engine import CLIENTS, Measured
from benchmarks.figures import Figure, measured_figure
from benchmarks.generator import drive, pace
from benchmarks.hops import stand_in_requests
from benchmarks.servers import served

PART: Final = "floor"
FASTEST: Final = f"as fast as it can, {CLIENTS} connections"
RATES_PER_S: Final = (500, 5_000)
WARM_UP_S: Final = 0.3


async def floor(cores: Cores, seconds: float) -> AsyncIterator[Figure]:
    """`seconds` for each."""
    requests = stand_in_requests()
    async with served("benchmarks.constant", cores) as server:
        for connections in (1, CLIENTS):
            before_s = cpu_s(server.pid)
            load = await drive(
                server.address, connections, requests, seconds, ending=BODY, warm_up_s=WARM_UP_S
            )
            measured = Measured(load, (cpu_s(server.pid) - before_s) / load.requests * 1e6)
            what = FASTEST if connections == CLIENTS else "as fast as it can, 1 connection"
            yield measured_figure(PART, what, [measured])
        for per_second in RATES_PER_S:
            before_s = cpu_s(server.pid)
            load = await pace(
                server.address, CLIENTS, requests, per_second, seconds, ending=BODY, warm_up_s=WARM_UP_S
            )
            measured = Measured(load, (cpu_s(server.pid) - before_s) / load.requests * 1e6)
            yield measured_figure(PART, f"{per_second:,}/s due", [measured])
