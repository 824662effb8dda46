"""Node ids as plant files write them."""

from __future__ import annotations

import pytest

from plant.node_ids import parse_node_id
from plant.spec import PlantSpec, load_spec
from tests.foreign.plant import plant_file


@pytest.mark.parametrize(
    ("text", "uri", "index", "identifier"),
    [
        ("a:i=3001", "http://vendor.example/Area21", 0, "i=3001"),
        ("a:s=Tank 1;level", "http://vendor.example/Area21", 0, "s=Tank 1;level"),
        ("nsu=http://vendor.example/Area21;s=a:i=3", "http://vendor.example/Area21", 0, "s=a:i=3"),
        ("nsu=urn:odd%3Bname%25;i=7", "urn:odd;name%", 0, "i=7"),
        ("ns=2;s=reactor.TI101", None, 2, "s=reactor.TI101"),
        ("ns=2;s=a:i=3", None, 2, "s=a:i=3"),
        ("i=2258", None, 0, "i=2258"),
        ("ns=3;g=09087e75-8e5e-499b-954f-f2a9603db28a", None, 3, "g=09087e75-8e5e-499b-954f-f2a9603db28a"),
    ],
)
def test_every_form_is_read(text: str, uri: str | None, index: int, identifier: str) -> None:
    address = parse_node_id(text, {"a": "http://vendor.example/Area21"})
    assert (address.uri, address.index, address.identifier, address.text) == (uri, index, identifier, text)


@pytest.mark.parametrize("text", ["", "TI101", "ns=x;s=T", "ns=2;T", "a:T", "i=", "i=12x", "nsu=;s=T", "svr=1;i=7"])
def test_what_is_no_node_id_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="not an OPC UA node id"):
        parse_node_id(text, {"a": "urn:a"})


def test_a_plant_file_names_the_field() -> None:
    data = plant_file("opc.tcp://127.0.0.1:1/x")
    data["handshake"]["granted"] = {"node": "b:i=1", "equals": 1}
    with pytest.raises(ValueError, match=r"handshake\.granted\.node: 'b:i=1' uses the alias 'b'.*it has a\)"):
        PlantSpec.model_validate(data)
    data = plant_file("opc.tcp://127.0.0.1:1/x")
    data["tags"][4]["move"]["write_node"] = "SPR"
    with pytest.raises(ValueError, match=r"SP\.move\.write_node: not an OPC UA node id: 'SPR'"):
        PlantSpec.model_validate(data)


def test_every_builtin_plant_names_its_nodes_by_uri() -> None:
    for name in ("glucose", "reactor", "reactor_bare", "turbofan", "vandevusse"):
        assert {a.uri for a in load_spec(name).addresses.values()} == {"urn:homeostat:plant"}, name
