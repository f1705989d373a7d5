"""Who may ask: the pages of this server, however it is reached, and no other site."""

import socket

import pytest
from rivulet.model_patches.viewers.senders import why_foreign

HERE = ("127.0.0.1", 8188)
THERE = ("192.168.1.20", 8188)
PROXY = {"X-Forwarded-For": "203.0.113.9"}
OWN = {"Sec-Fetch-Site": "same-origin"}

OWN_PAGES = {
    "no browser": (HERE, {"Host": "127.0.0.1:8188"}),
    "typed address": (HERE, {"Host": "localhost:8188", "Sec-Fetch-Site": "none"}),
    "own page": (HERE, {"Host": "localhost:8188", "Origin": "http://localhost:8188", **OWN}),
    "capitals and a dot": (HERE, {"Host": "LocalHost.:8188", "Origin": "http://localhost:8188"}),
    "IPv6": (("::1", 8188), {"Host": "[::1]:8188", "Origin": "http://[::1]:8188"}),
    "the address that the host prints": (HERE, {"Host": "0.0.0.0:8188", "Origin": "http://0.0.0.0:8188"}),
    "the machine's name": (HERE, {"Host": f"{socket.gethostname().lower()}:8188"}),
    "a name without dots": (HERE, {"Host": "mypc:8188"}),
    "a tunnel to another port": (HERE, {"Host": "localhost:9000", "Origin": "http://localhost:9000"}),
    "a name of localhost": (HERE, {"Host": "comfy.localhost:8188"}),
    "--listen, by address": (THERE, {"Host": "192.168.1.20:8188", "Origin": "http://192.168.1.20:8188"}),
    "--listen, by name": (
        THERE,
        {"Host": "comfy.example.org:8188", "Origin": "http://comfy.example.org:8188"},
    ),
    "a proxy that gives its own name": (
        HERE,
        {"Host": "comfy.example.org", "Origin": "https://comfy.example.org", **PROXY},
    ),
    "a proxy that names its port": (
        HERE,
        {"Host": "comfy.example.org:443", "Origin": "https://comfy.example.org", **PROXY},
    ),
    "a proxy that gives ours": (
        HERE,
        {
            "Host": "127.0.0.1:8188",
            "X-Forwarded-Host": "comfy.example.org",
            "Origin": "https://comfy.example.org",
        },
    ),
    "a row of proxies": (
        HERE,
        {"Host": "127.0.0.1:8188", "X-Forwarded-Host": "a.org, b.org", "Origin": "https://a.org"},
    ),
    "a proxy and a browser that vouches": (HERE, {"Host": "comfy.example.org", **OWN, **PROXY}),
    "a socket that is no place": (("", 0), {"Host": "comfy.example.org"}),
}
OTHERS = {
    "another name": (HERE, {"Host": "evil.com"}),
    "another name and our port": (HERE, {"Host": "evil.com:8188"}),
    "a rebound name": (HERE, {"Host": "evil.com:8188", "Origin": "http://evil.com:8188", **OWN}),
    "a rebound name that forges a proxy": (
        HERE,
        {"Host": "evil.com:8188", "Origin": "http://evil.com:8188", **OWN, **PROXY},
    ),
    "a rebound name at the usual port": (("127.0.0.1", 80), {"Host": "evil.com", **OWN, **PROXY}),
    "a rebound name at IPv6": (("::1", 8188), {"Host": "evil.com:8188"}),
    "at both kinds": (("::ffff:127.0.0.1", 8188), {"Host": "evil.com:8188"}),
    "a name that begins like ours": (HERE, {"Host": "localhost.evil.com:8188"}),
    "a name that looks like an address": (HERE, {"Host": "127.0.0.1.evil.com:8188"}),
    "no host": (HERE, {}),
    "an empty host": (HERE, {"Host": ""}),
    "a host with a name before it": (HERE, {"Host": "localhost@evil.com"}),
    "a host with a path": (HERE, {"Host": "localhost/evil.com"}),
    "a port that is none": (HERE, {"Host": "localhost:x"}),
    "another origin": (HERE, {"Host": "localhost:8188", "Origin": "http://evil.com"}),
    "another port": (HERE, {"Host": "localhost:8188", "Origin": "http://localhost:3000"}),
    "another kind of address": (HERE, {"Host": "localhost:8188", "Origin": "file://localhost:8188"}),
    "no origin in words": (HERE, {"Host": "localhost:8188", "Origin": "null"}),
    "an empty origin": (HERE, {"Host": "localhost:8188", "Origin": ""}),
    "another site": (HERE, {"Host": "localhost:8188", "Sec-Fetch-Site": "cross-site"}),
    "a sister site": (HERE, {"Host": "localhost:8188", "Sec-Fetch-Site": "same-site"}),
    "another site at --listen": (THERE, {"Host": "192.168.1.20:8188", "Origin": "http://evil.com"}),
    "no origin in words at --listen": (THERE, {"Host": "192.168.1.20:8188", "Origin": "null"}),
}


@pytest.mark.parametrize("name", OWN_PAGES)
def test_a_page_of_this_server_may_ask(name):
    place, headers = OWN_PAGES[name]
    assert why_foreign(headers, *place) is None


@pytest.mark.parametrize("name", OTHERS)
def test_another_site_is_refused_in_a_sentence(name):
    place, headers = OTHERS[name]
    assert why_foreign(headers, *place).endswith(".")
