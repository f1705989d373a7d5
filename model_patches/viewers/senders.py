"""Which requests come from a page of this server, by their headers alone: "Who may ask" in docs/preview.md.

A browser tells the truth in Host, Origin and Sec-Fetch-Site: no page can set them. Another site may give its
own name the address of this machine (DNS rebinding); then Host has that name, and the port of this server.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

OWN = ("same-origin", "none")  # of Sec-Fetch-Site: this page, or an address that was typed
USUAL_PORTS = {"http": 80, "https": 443}  # which a browser leaves out
PROXIED = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP")


def why_foreign(headers: Mapping[str, str], address: str, port: int) -> str | None:
    """A sentence about a request that another site sends, or that came in under another site's name; or None.

    headers: of the request, by the names that HTTP gives them. address, port: at which it came in, of this
    machine.
    """
    name, named_port = split_host(headers.get("Host", ""))
    if name is None:
        return "The request does not say which host it is for; send a Host header."
    if is_loopback(address) and not is_of_this_machine(name):
        is_direct = named_port == port or (named_port is None and port in USUAL_PORTS.values())
        if is_direct or not any(header in headers for header in PROXIED):
            return (
                f"This server answers at names of this machine, such as localhost, not at {name[:60]!r}; "
                f"open ComfyUI under one of them."
            )
    site = headers.get("Sec-Fetch-Site")
    is_own = is_own_origin(headers) if site is None else site in OWN
    return None if is_own else "Requests from other sites are refused; open ComfyUI's own page."


def is_own_origin(headers: Mapping[str, str]) -> bool:
    """Whether the Origin, if there is one, is the host that was asked, by its own name or by a proxy's."""
    origin = headers.get("Origin")
    if origin is None:
        return True
    scheme, _, place = origin.partition("://")
    name, port = split_host(place)
    if name is None or scheme not in USUAL_PORTS:
        return False
    asked = [headers.get("Host", ""), *headers.get("X-Forwarded-Host", "").split(",")]
    usual = USUAL_PORTS[scheme]
    return (name, port or usual) in {(own, at or usual) for own, at in map(split_host, asked)}


def split_host(host: str) -> tuple[str | None, int | None]:
    """(name in small letters, port or None) of a Host header; (None, None) for what is none."""
    host = host.strip()
    if not host or any(letter in "@/\\?#" or not letter.isprintable() or letter == " " for letter in host):
        return None, None
    try:
        split = urlsplit(f"//{host}")
        name, port = split.hostname, split.port
    except ValueError:
        return None, None
    return (name.removesuffix("."), port) if name else (None, None)


def is_of_this_machine(name: str) -> bool:
    """Whether no other site can have this name: an address, a name without dots, or of this machine alone."""
    own = socket.gethostname().lower()
    if "." not in name or name.endswith(".localhost") or name in (own, f"{own}.local"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(address: str) -> bool:
    """Whether an address of this machine is for itself alone."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)  # of 127.0.0.1 at a socket for both kinds
    return (mapped or found).is_loopback
