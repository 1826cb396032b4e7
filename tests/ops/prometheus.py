"""The distribution's Prometheus, over the rules of grafana/, as a process of its own."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlencode

import aiohttp
import orjson
import yaml

from tests.grafana import ALERTS, GRAFANA, RULES

# Grafana's 15 s, shortened: whoever waits for an alert waits for some of these.
INTERVAL: Final = "500ms"
# Prometheus tells nobody that it has evaluated something; it is asked.
ASKED_EVERY_S: Final = 0.2
# Only there so that a broken test ends.
GIVE_UP_S: Final = 60.0


class Prometheus:
    """Scrapes `target`; `limits` are put in the place of those of the alerts, and no alert is waited for."""

    def __init__(self, directory: Path, target: str, limits: Mapping[str, str]) -> None:
        self._directory = directory
        self._target = target
        self._limits = limits
        self._base_url = ""
        self._process: asyncio.subprocess.Process | None = None
        self._session = aiohttp.ClientSession()

    async def __aenter__(self) -> Self:
        self._write_configuration()
        port = _free_port()
        self._base_url = f"http://127.0.0.1:{port}"
        with (self._directory / "log").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                program("prometheus"),
                f"--config.file={self._directory / 'prometheus.yml'}",
                f"--storage.tsdb.path={self._directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                stdout=log,
                stderr=log,
            )
        await self.until(self._is_ready)
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self._session.close()
        assert self._process is not None
        if self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()

    async def values(self, expression: str) -> list[float]:
        """What it says now, one value for each series."""
        asked = urlencode({"query": expression})
        async with self._session.get(f"{self._base_url}/api/v1/query?{asked}") as answer:
            body = orjson.loads(await answer.read())
        assert body["status"] == "success", (expression, body)
        return [float(series["value"][1]) for series in body["data"]["result"]]

    async def firing(self) -> dict[str, dict[str, Any]]:
        """Name → alert, of those that fire now."""
        async with self._session.get(f"{self._base_url}/api/v1/alerts") as answer:
            alerts = orjson.loads(await answer.read())["data"]["alerts"]
        return {alert["labels"]["alertname"]: alert for alert in alerts if alert["state"] == "firing"}

    async def until_firing(self, name: str) -> dict[str, Any]:
        async def fires() -> bool:
            return name in await self.firing()

        await self.until(fires)
        return (await self.firing())[name]

    async def until_quiet(self, name: str) -> None:
        async def is_quiet() -> bool:
            return name not in await self.firing()

        await self.until(is_quiet)

    async def until(self, is_so: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(GIVE_UP_S):
            while not await is_so():
                assert self._process is not None
                assert self._process.returncode is None, (self._directory / "log").read_text()
                await asyncio.sleep(ASKED_EVERY_S)

    async def _is_ready(self) -> bool:
        try:
            async with self._session.get(f"{self._base_url}/-/ready") as answer:
                return answer.status == 200
        except aiohttp.ClientConnectionError:
            return False

    def _write_configuration(self) -> None:
        configuration = yaml.safe_load((GRAFANA / "prometheus.yml").read_text())
        configuration["global"] = {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL}
        configuration["scrape_configs"][0]["static_configs"] = [{"targets": [self._target]}]
        self._directory.mkdir(parents=True)
        (self._directory / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        (self._directory / "rules.yml").write_text(RULES.read_text())
        alerts = yaml.safe_load(ALERTS.read_text())
        for group in alerts["groups"]:
            for rule in group["rules"]:
                rule.pop("for", None)
                if (limit := self._limits.get(rule["alert"])) is not None:
                    rule["expr"] = f"{rule['expr'].rpartition(' ')[0]} {limit}"
        (self._directory / "alerts.yml").write_text(yaml.safe_dump(alerts))


def program(name: str) -> str:
    """Its path; install_prometheus.sh sees to it that there is one."""
    found = shutil.which(name)
    assert found is not None, f"{name} is not installed: run tests/ops/install_prometheus.sh"
    return found


def _free_port() -> int:
    """Prometheus does not say which port it took, so that one is chosen for it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
