"""What a plant file wants that cannot all be had. It can be run like that, for a rank says what is given up; whoever wrote it should
know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from plant.spec import PlantSpec
from plant.wants import Zone


class Fight(NamedTuple):
    """Two wants that fight: the tag, what they are, and what to do."""

    tag: str
    what: str
    fix: str


def fights(spec: PlantSpec) -> list[Fight]:
    """Targets outside the zone of their tag, targets and whole zones past a guardrail, a resting value that a price pulls away from."""
    return [*_targets(spec), *_zones(spec), *_rests(spec)]


def _targets(spec: PlantSpec) -> Iterator[Fight]:
    zones = {z.tag: z for z in spec.zones}
    for t in spec.targets:
        unit, zone = spec.tag(t.tag).unit, zones.get(t.tag)
        if zone is not None and not _inside(zone, t.value):
            first = (
                "the target"
                if t.rank < zone.rank
                else "the zone"
                if zone.rank < t.rank
                else "neither, for they share a rank,"
            )
            what = f"the target {t.value:g} {unit} of {t.tag} is outside its zone {_words(zone)}; {first} is kept first"
            yield Fight(t.tag, what, "Move one of them, or say by rank which goes first.")
        for g in spec.guardrails:
            if g.tag == t.tag and g.margin(t.value) < 0:
                what = f"the target {t.value:g} {unit} of {t.tag} is past its guardrail {g.name} ({g.limit:g} {unit})"
                yield Fight(t.tag, what, "It will never be reached; move it inside.")


def _zones(spec: PlantSpec) -> Iterator[Fight]:
    for z in spec.zones:
        for g in spec.guardrails:
            nearest = z.low if g.max is not None else z.high  # the end on the safe side of the limit
            if g.tag == z.tag and nearest is not None and g.margin(nearest) <= 0:
                what = f"the whole zone {_words(z)} of {z.tag} is past its guardrail {g.name} ({g.limit:g} {spec.tag(z.tag).unit})"
                yield Fight(z.tag, what, "It will never be reached; move it inside.")


def _rests(spec: PlantSpec) -> Iterator[Fight]:
    priced = {p.tag for p in spec.prices if p.per_unit}
    for mv in spec.mvs:
        if mv.move is not None and mv.move.rest is not None and mv.name in priced:
            what = (
                f"{mv.name} has a resting value ({mv.move.rest:g} {mv.unit}) and a price that pulls it away from there"
            )
            yield Fight(
                mv.name, what, "The price goes first where gains are known; give one of them up if that is not meant."
            )


def _inside(zone: Zone, value: float) -> bool:
    return (zone.low is None or value >= zone.low) and (zone.high is None or value <= zone.high)


def _words(zone: Zone) -> str:
    low, high = ("open" if v is None else f"{v:g}" for v in (zone.low, zone.high))
    return f"[{low}, {high}]"
