"""Where events may go: every way to write an address of the inside, and what an operator opens."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cordboard.settings import Settings
from cordboard.webhooks.destinations import Destinations, ForbiddenAddress, is_public

NOWHERE = Destinations()

INSIDE = [
    "0.0.0.0",  # noqa: S104 - nothing is bound.
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.8",
    "192.0.0.9",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b:1::a00:1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
]
OUTSIDE = ["8.8.8.8", "93.184.215.14", "2606:4700::6810:84e5", "::ffff:8.8.8.8"]


def url_of(host: str, port: int = 443) -> str:
    return f"https://[{host}]:{port}/x" if ":" in host else f"https://{host}:{port}/x"


def info_of(host: str, port: int = 443) -> tuple[int, int, int, str, tuple[str, int]]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port)


@pytest.mark.parametrize("host", INSIDE)
def test_an_address_of_the_inside_is_refused_when_set_and_when_dialled(host: str) -> None:
    assert not is_public(ip_address(host))
    if "%" not in host:
        fault = NOWHERE.fault_of(url_of(host))
        assert fault is not None
        assert "not public" in fault
    with pytest.raises(ForbiddenAddress):
        NOWHERE.socket_for(info_of(host))


@pytest.mark.parametrize("host", OUTSIDE)
def test_an_address_of_the_internet_is_taken_on_listed_ports_alone(host: str) -> None:
    for port in (80, 443, 8080, 8443):
        assert NOWHERE.fault_of(url_of(host, port)) is None
        NOWHERE.socket_for(info_of(host, port)).close()
    for port in (22, 25, 5432, 6379):
        assert NOWHERE.fault_of(url_of(host, port)) == "must have one of the ports 80, 443, 8080, 8443"
        with pytest.raises(ForbiddenAddress):
            NOWHERE.socket_for(info_of(host, port))


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST",
        "localhost.",
        "a.localhost",
        "127.1",
        "127.0.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "017700000001",
        "0177.0.0.1",
        "127.0.0.1.",
        "１２７.0.0.1",
        "0",
        "0xa9fea9fe",
    ],
)
def test_another_spelling_of_an_address_is_that_address(host: str) -> None:
    assert NOWHERE.fault_of(f"http://{host}/") is not None


@pytest.mark.parametrize("text", ["ftp://example.com/", "file:///etc/passwd", "gopher://example.com/", "x"])
def test_other_schemes_are_refused(text: str) -> None:
    assert NOWHERE.fault_of(text) == "must be an absolute http or https URL"


def test_a_name_is_taken_as_it_is_and_looked_at_when_dialled() -> None:
    assert NOWHERE.fault_of("https://user:secret@example.com/events?key=1") is None
    assert NOWHERE.fault_of("https://example.com:9000/") is not None


def test_the_operator_opens_names_and_networks_whatever_the_port() -> None:
    opened = Destinations.of(["10.1.0.0/16", "127.0.0.1", "fd00::/8", "Hooks.Internal"], [443])
    assert opened.fault_of("http://10.1.2.3:9000/") is None
    assert opened.fault_of("http://[::ffff:10.1.2.3]:9000/") is None
    assert opened.fault_of("http://[fd00::7]:1/") is None
    assert opened.fault_of("http://hooks.internal.:9000/") is None
    assert opened.fault_of("http://localhost:9000/") is None
    assert opened.fault_of("http://10.2.0.1/") is not None
    assert opened.fault_of("http://127.0.0.2/") is not None
    assert opened.fault_of("http://a.hooks.internal:9000/") is not None
    assert opened.fault_of("http://example.com:8080/") is not None, "the port list is the operator's"
    opened.socket_for(info_of("10.1.2.3", 9_000)).close()
    opened.socket_for(info_of("::ffff:10.1.2.3", 9_000)).close()
    with pytest.raises(ForbiddenAddress):
        opened.socket_for(info_of("10.2.0.1"))


@given(st.ip_addresses())
def test_what_is_set_by_address_can_be_dialled_and_nothing_else(address: object) -> None:
    host = str(address)
    assert (NOWHERE.fault_of(url_of(host)) is None) == NOWHERE.permits(ip_address(host), 443)


@given(st.ip_addresses(v=4))
def test_a_mapped_address_is_the_address_that_it_maps(address: object) -> None:
    assert is_public(ip_address(f"::ffff:{address}")) == is_public(ip_address(str(address)))


def test_the_settings_are_lists_with_commas() -> None:
    given: dict[str, Any] = {
        "callback_allow": "127.0.0.1, 10.0.0.0/8,hooks.internal",
        "callback_ports": "443,9000",
    }
    settings = Settings(**given)
    assert settings.callback_allow == ("127.0.0.1", "10.0.0.0/8", "hooks.internal")
    assert settings.callback_ports == (443, 9000)
    assert Destinations.of_settings(settings).names == {"hooks.internal"}


@pytest.mark.parametrize(
    "given_settings",
    [
        {"callback_allow": "10.0.0.0/33"},
        {"callback_allow": "10.0.0"},
        {"callback_allow": "http://a/"},
        {"callback_ports": "0"},
        {"callback_ports": "http"},
        {"callback_ports": ""},
    ],
)
def test_a_setting_that_opens_nothing_is_refused(given_settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(given_settings))):
        Settings(**given_settings)
