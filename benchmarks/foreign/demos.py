"""The four demos, left alone: AUTO at the end, and decisions in time."""

from __future__ import annotations

import time

from benchmarks.foreign.bench import Bench
from benchmarks.foreign.ports import free_port
from benchmarks.foreign.product import Running
from benchmarks.outcomes import Case, Cases, Outcome, yes
from homeostat.status import read_status
from plant.spec import load_spec

BAR_MISSED = 0.01  # of all decisions
PLANTS = ("reactor", "vandevusse", "turbofan", "glucose")


def cases(bench: Bench) -> Cases:
    def case(plant: str) -> Case:
        return lambda: demo(bench, plant)

    return {plant: case(plant) for plant in PLANTS}


def demo(bench: Bench, plant: str) -> list[Outcome]:
    """`homeostat demo PLANT` for as long as the settings say, one after the other: they need both cores."""
    folder, minutes = bench.folder / "demos" / plant, bench.settings.demo_minutes
    ports = {"--plant-port": free_port(), "--controller-port": free_port(), "--port": free_port()}
    argv = [a for option, port in ports.items() for a in (option, port)]
    controller, spec = f"opc.tcp://127.0.0.1:{ports['--controller-port']}/homeostat/controller", load_spec(plant)
    facts: dict = {}
    in_auto = seen = 0
    with Running(folder / "demo.log", "demo", plant, "--data-dir", folder, *argv) as running:
        end = time.monotonic() + minutes * 60
        while time.monotonic() < end and running.process is not None and running.process.poll() is None:
            time.sleep(5.0)
            now = read_status(spec, controller, folder / plant / "historian.db")
            if now["controller"] == "reachable":
                facts, seen, in_auto = now, seen + 1, in_auto + (now["mode"] == "AUTO")
        alive = running.process is not None and running.process.poll() is None
        code = running.end()
    missed = facts.get("missed_deadlines", 0) / max(facts.get("cycles", 0), 1)
    note = f"{in_auto} of {seen} looks in AUTO; {facts.get('reason', facts.get('mode_reason', ''))}"[:160]
    return [
        yes("AUTO at the end", alive and facts.get("mode") == "AUTO", note),
        Outcome(
            "decisions missed, share", missed if facts else 1.0, BAR_MISSED, note=f"{facts.get('cycles', 0)} cycles"
        ),
        yes("it ends well", code == 0, f"exit status {code}"),
    ]
