"""The gain matrix for people: every pair is in the table and in the report, what nobody can know as a question mark."""

from __future__ import annotations

from benchmarks.site.linear_plants import archive, plant_of
from homeostat.gain_report import sections, table
from models.gain_estimate import gains_of


def test_table_and_report_show_every_pair_and_say_what_is_not_known() -> None:
    plant = plant_of(3)
    gains = gains_of(plant.spec, archive(plant, 60, 3, still=(3,)))
    lines = table(gains).splitlines()
    assert lines[0].split() == ["gain", "U0", "U1", "U2", "U3"]
    assert [line.split()[0] for line in lines[1:7]] == ["Y0", "Y1", "Y2", "Y3", "Y4", "Y5/h"]
    assert all(line.endswith("?") for line in lines[1:7])
    assert "U3 never moved: nobody can know its gains; test it" in lines
    parts = dict(sections(gains))
    assert len(parts) == 3
    page = "".join(parts.values())
    assert page.count("<svg") == 1
    assert page.count("<table") == 2
    assert "U3 never moved" in page
    assert "settled" in page
