"""Which addresses a name that others registered may lead to: those of the open Internet. Pure.

Named are ranges to refuse for IPv4, and the one range to take for IPv6 with what is cut out of it (IANA's registries of
special-purpose addresses, RFC 6890). Addresses that carry an IPv4 address within them are refused whatever it is.
"""

import ipaddress
from typing import Final

_REFUSED_4: Final = [
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared between a carrier's customers
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local, where clouds keep their metadata
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # relays from 6to4
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks of networks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
]
_GLOBAL_6: Final = ipaddress.IPv6Network("2000::/3")  # all that is given out; mapped, NAT64, local ones lie outside
_REFUSED_6: Final = [
    ipaddress.IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments, with Teredo
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: carries an IPv4 address
        "3fff::/20",  # documentation
    )
]


def is_public(text: str) -> bool:
    """Whether an address, as `getaddrinfo` writes it, is of the open Internet. What cannot be read is not."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in refused for refused in _REFUSED_4)
    return address in _GLOBAL_6 and not any(address in refused for refused in _REFUSED_6)
