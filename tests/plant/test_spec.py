"""What a plant file may say, and how a mistake in one is told: the file, the field, what was expected."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from plant.errors import SpecError
from plant.spec import Guardrail, Interlock, PlantSpec, Role, builtin_plants, load_spec
from plant.yaml_file import validate_yaml

GOOD: dict[str, Any] = {
    "name": "tank",
    "description": "a tank",
    "endpoint": "opc.tcp://127.0.0.1:4840/tank",
    "sample_time_s": 5.0,
    "scan_time_s": 1.0,
    "handshake": "simulated",
    "tags": [
        {"name": "T", "role": "CV", "description": "t", "unit": "K", "range": [0, 200], "nominal": 50, "node_id": "ns=2;s=tank.T"},
        {"name": "F", "role": "DV", "description": "f", "unit": "L", "range": [0, 10], "nominal": 5, "node_id": "ns=2;s=tank.F"},
        {"name": "A", "role": "AUX", "description": "a", "unit": "K", "range": [0, 10], "nominal": 5, "node_id": "ns=2;s=tank.A"},
        {"name": "U", "role": "MV", "description": "u", "unit": "K", "range": [0, 100], "nominal": 30, "node_id": "ns=2;s=tank.U",
         "move": {"limits": [10, 90], "rate_per_s": 5.0, "safe": 10}},
        {"name": "X", "role": "HIDDEN", "description": "x", "unit": "K", "range": [0, 200], "nominal": 50},
    ],
    "guardrails": [{"name": "hot", "tag": "T", "max": 90.0, "rank": 1, "fallback_tag": "X"}],
    "targets": [{"tag": "T", "value": 50.0, "limits": [20, 80], "scale": 1.0}],
    "regulatory": {
        "loops": [{"mv": "U", "pv": "T", "set_point": 60.0, "gain": 2.0, "integral_s": 20.0}],
        "interlocks": [{"tag": "T", "trip": 90.0, "reset": 80.0, "moves": {"U": 10.0}}],
    },
}  # fmt: skip


def write(folder: Path, *changes: tuple[str, Any]) -> Path:
    """The good file with some fields changed ("tags.3.move.safe", value); a value of None takes the field out."""
    content = copy.deepcopy(GOOD)
    for where, value in changes:
        *way, last = where.split(".")
        at: Any = content
        for part in way:
            at = at[int(part)] if part.isdigit() else at[part]
        if value is None:
            del at[int(last) if last.isdigit() else last]
        else:
            at[int(last) if last.isdigit() else last] = value
    path = folder / "tank.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_good_file_loads(tmp_path: Path) -> None:
    spec = load_spec(write(tmp_path))
    assert [t.name for t in spec.mvs] == ["U"]
    assert [t.name for t in spec.measured] == ["T", "A"]
    assert [t.name for t in spec.dvs] == ["F"]
    assert [t.name for t in spec.online] == ["T", "F", "A", "U"]
    assert [t.name for t in spec.with_role(Role.HIDDEN, Role.DV)] == ["F", "X"]
    assert spec.tag("U").move.safe == 10.0  # type: ignore[union-attr]
    assert spec.handshake.watchdog.misses == 3
    assert spec.guardrails[0].limit == 90.0
    with pytest.raises(SpecError, match=r"tank: no tag 'V'.*T, F, A, U, X"):
        spec.tag("V")


@pytest.mark.parametrize(
    ("change", "field", "expectation"),
    [
        (("limts", 3), "limts", "unknown key"),
        (("tags.3.move.rate", 3), "tags.3.move.rate", "unknown key"),
        (("tags.0.role", "PV"), "tags.0.role", "'MV', 'CV', 'DV', 'AUX', 'HIDDEN' or 'COND'"),
        (("tags.0.role", "MV"), "tags.0", "an MV needs a `move` section"),
        (("tags.3.role", "CV"), "tags.3", "an MV needs a `move` section and no other role has one"),
        (("tags.0.role", "AUX"), "file", "targets[0].tag names 'T', a AUX; expected CV"),
        (("tags.0.node_id", None), "tags.0", "needs a node_id"),
        (("tags.4.node_id", "ns=2;s=tank.X"), "tags.4", "a HIDDEN tag has none"),
        (("tags.1.name", "T"), "file", "T appear twice"),
        (("tags.1.name", "1F"), "tags.1.name", "should match pattern"),
        (("guardrails.0.tag", "TT"), "file", "guardrails[0].tag names 'TT', which is not one of the tags: T, F, A, U, X"),
        (("guardrails.0.fallback_tag", "A"), "file", "guardrails[0].fallback_tag names 'A', a AUX; expected HIDDEN"),
        (("guardrails.0.shown_by", "X"), "file", "guardrails[0].shown_by names 'X', a HIDDEN; expected CV or AUX"),
        (("tags.4.range", [0, 90]), "file", "'X', whose range [0.0, 90.0] must reach past the limit 90"),
        (("guardrails.0.fallback_s", 0), "guardrails.0.fallback_s", "greater than 0"),
        (("tags.3.move.feed_forward", {"A": 1.0}), "file", "U.move.feed_forward names 'A', a AUX; expected DV"),
        (("guardrails.0.min", 3.0), "guardrails.0", "exactly one of max and min"),
        (("guardrails.0.max", None), "guardrails.0", "exactly one of max and min"),
        (("guardrails.0.rank", 0), "guardrails.0.rank", "greater than or equal to 1"),
        (("tags.3.move.limits", [-5, 90]), "tags.3", "move.limits [-5.0, 90.0] must lie inside range [0.0, 100.0]"),
        (("tags.3.move.limits", [90, 10]), "tags.3.move", "[low, high] with low < high"),
        (("tags.3.move.safe", 95), "tags.3.move", "safe (95.0) must lie inside limits [10.0, 90.0]"),
        (("tags.3.move.rate_per_s", 0), "tags.3.move.rate_per_s", "greater than 0"),
        (("tags.0.range", [200, 0]), "tags.0", "range must be [low, high] with low < high"),
        (("tags.0.nominal", 300), "tags.0", "nominal (300.0) must lie inside range"),
        (("tags.0.nominal", float("nan")), "tags.0.nominal", "finite number"),
        (("tags.0.range", [0, float("inf")]), "tags.0.range.1", "finite number"),
        (("guardrails.0.max", float("nan")), "guardrails.0.max", "finite number"),
        (("tags.0.period_s", 0.0), "tags.0.period_s", "greater than 0"),
        (("tags.1.period_s", 60.0), "tags.1", "only a CV or an AUX has a period_s; a DV holds until it changes"),
        (("tags.0.noise", -1), "tags.0.noise", "greater than or equal to 0"),
        (("tags.0.unit", None), "tags.0.unit", "Field required"),
        (("tags", []), "tags", "at least 1"),
        (("sample_time_s", "soon"), "sample_time_s", "valid number"),
        (("sample_time_s", 0.5), "file", "scan_time_s (1.0) must not exceed sample_time_s (0.5)"),
        (("targets.0.value", 99.0), "file", "targets[0].value (99.0) must lie inside its limits [20.0, 80.0]"),
        (("targets.0.tag", "U"), "file", "targets[0].tag names 'U', a MV; expected CV"),
        (("regulatory.loops.0.mv", "T"), "file", "regulatory.loops[0].mv names 'T', a CV; expected MV"),
        (("regulatory.loops.0.pv", "X"), "file", "regulatory.loops[0].pv names 'X', a HIDDEN"),
        (("regulatory.loops.0.integral_s", 0), "regulatory.loops.0.integral_s", "greater than 0"),
        (("regulatory.interlocks.0.tag", "U"), "file", "regulatory.interlocks[0].tag names 'U', a MV"),
        (("regulatory.interlocks.0.moves", {"V": 1.0}), "file", "regulatory.interlocks[0].moves names 'V'"),
        (("regulatory.interlocks.0.moves", {"U": 5.0}), "file", "regulatory.interlocks[0].moves.U (5.0) must lie inside [10.0, 90.0]"),

    ],
    ids=lambda v: f"{v[0]}={v[1]}" if isinstance(v, tuple) else "",
)  # fmt: skip
def test_mistake_names_file_field_and_expectation(
    tmp_path: Path, change: tuple[str, Any], field: str, expectation: str
) -> None:
    path = write(tmp_path, change)
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    assert caught.value.where == str(path)
    assert f"{field}: " in caught.value.what
    assert expectation in caught.value.what
    assert caught.value.fix


def test_a_constant_of_a_run_is_on_the_endpoint_and_is_neither_measured_nor_a_disturbance(tmp_path: Path) -> None:
    spec = load_spec(write(tmp_path, ("tags.1.role", "COND")))
    assert [t.name for t in spec.constants] == ["F"]
    assert [t.name for t in spec.online] == ["T", "F", "A", "U"]
    assert [t.name for t in (*spec.measured, *spec.dvs)] == ["T", "A"]


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, ("limts", 3), ("tags.0.noise", -1))
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    assert "limts: unknown key" in caught.value.what
    assert "tags.0.noise: " in caught.value.what


@pytest.mark.parametrize("text", ["", "- 1\n- 2\n", "just words\n"])
def test_a_file_that_is_no_mapping(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tank.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=r"file: .*dictionary"):
        load_spec(path)


def test_bad_yaml_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "tank.yaml"
    path.write_text("name: tank\ndescription: d\ntags: [1, 2\nendpoint: x\n")
    with pytest.raises(SpecError, match="not valid YAML") as caught:
        load_spec(path)
    assert caught.value.where.startswith(f"{path}:4:")
    assert "line" in caught.value.fix


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    """YAML keeps the last one in silence: the first guardrail list would be gone."""
    path = tmp_path / "tank.yaml"
    path.write_text("name: tank\nguardrails: [{name: hot, tag: T, max: 90}]\nguardrails: []\n")
    with pytest.raises(SpecError, match="key 'guardrails' appears twice") as caught:
        load_spec(path)
    assert caught.value.where.startswith(f"{path}:3:")


def test_missing_file_names_the_builtin_plants(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no such file\. Check the path\. Built-in plants: .*reactor") as caught:
        load_spec(tmp_path / "nowhere.yaml")
    assert caught.value.where == str(tmp_path / "nowhere.yaml")


def test_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        load_spec(tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"name: caf\xe9\n")
    with pytest.raises(SpecError, match=r"cannot be read.*UTF-8"):
        load_spec(latin)


def test_builtin_plants_load() -> None:
    plants = builtin_plants()
    assert {"reactor", "reactor_bare"} <= set(plants)
    for name, path in plants.items():
        spec = load_spec(name)
        assert spec.name == name
        assert spec == load_spec(path)
        assert spec.mvs
        assert spec.guardrails
        assert spec.targets
        assert len({t.node_id for t in spec.online}) == len(spec.online)


def test_spec_is_frozen() -> None:
    spec = load_spec("reactor")
    with pytest.raises(ValidationError):
        spec.name = "other"  # type: ignore[misc]


def test_guardrail_margin_sign() -> None:
    assert Guardrail(name="hot", tag="T", max=90.0).sign == 1.0
    low = Guardrail(name="cold", tag="T", min=10.0)
    assert (low.sign, low.limit) == (-1.0, 10.0)


def test_validate_yaml_serves_other_models(tmp_path: Path) -> None:
    path = tmp_path / "lock.yaml"
    path.write_text("{tag: T, trip: 1.0, reset: 0.5, moves: {U: 1}, extra: 1}\n")
    with pytest.raises(SpecError, match="extra: unknown key"):
        validate_yaml(Interlock, path)
    path.write_text("{tag: T, trip: 1.0, reset: 0.5, moves: {U: 1}}\n")
    assert validate_yaml(Interlock, path).moves == {"U": 1.0}


def test_python_callers_meet_the_same_rules() -> None:
    bad = copy.deepcopy(GOOD)
    bad["guardrails"][0]["tag"] = "TT"
    with pytest.raises(ValidationError, match="not one of the tags"):
        PlantSpec.model_validate(bad)
