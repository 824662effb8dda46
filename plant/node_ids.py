"""Node ids as plant files write them: `alias:i=3001`, `nsu=http://vendor.example/Area21;s=Name`, or `ns=2;s=Name`.

Only a URI says whose node it is: the index of a namespace may be another at the next start of the server (OPC UA Part 3,
8.2.2). A plain index is taken as it is, and is somebody's guess.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_ALIASED = re.compile(r"([A-Za-z][A-Za-z0-9_]*):([isgb]=.+)", re.DOTALL)
_PLAIN = re.compile(r"(?:ns=(\d{1,5});)?([isgb]=.+)", re.DOTALL)
_BY_URI = re.compile(r"nsu=([^;]+);([isgb]=.+)", re.DOTALL)
_FORMS = "Write alias:s=Name, nsu=URI;s=Name or ns=2;s=Name."


@dataclass(frozen=True)
class NodeAddress:
    """A node id whose namespace may still have to be found: `uri` names it, or else `index` is taken as it is.
    `identifier` is the rest, as `i=3001` or `s=Name`; `text` is what the file says."""

    uri: str | None
    index: int
    identifier: str
    text: str


def parse_node_id(text: str, namespaces: Mapping[str, str]) -> NodeAddress:
    """The address that a plant file's `text` means, aliases taken from `namespaces`. Raises `ValueError`, one sentence."""
    if found := _BY_URI.fullmatch(text):
        # Part 6, 5.3.1.11: a ';' or '%' within a URI is escaped.
        uri = found[1].replace("%3B", ";").replace("%3b", ";").replace("%25", "%")
        address = NodeAddress(uri, 0, found[2], text)
    elif found := _PLAIN.fullmatch(text):
        address = NodeAddress(None, int(found[1] or 0), found[2], text)
    elif found := _ALIASED.fullmatch(text):
        if found[1] not in namespaces:
            known = ", ".join(namespaces) or "none"
            raise ValueError(f"'{text}' uses the alias '{found[1]}', which namespaces does not have (it has {known})")
        address = NodeAddress(namespaces[found[1]], 0, found[2], text)
    else:
        raise ValueError(f"not an OPC UA node id: '{text}'. {_FORMS}")
    if address.identifier.startswith("i=") and not re.fullmatch(r"i=\d{1,10}", address.identifier):
        raise ValueError(f"not an OPC UA node id: '{text}' has a number that is none. {_FORMS}")
    return address
