"""Lock-step recordings into the historian: the plant-hours a world model is trained on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from historian import Historian
from homeostat.lockstep import Recording, excitation_run, incident_run, split
from plant.spec import PlantSpec
from simulators.scenario import load_scenario

Progress = Callable[[str, int, int], None]
_BATCH = 128
EXCITATION_SAMPLES, INCIDENT_SAMPLES = 60, 40  # how long the benchmarks' own runs are


def excite_lockstep(
    spec: PlantSpec,
    historian: Historian,
    end_s: float,
    *,
    runs: int,
    incidents: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> float:
    """Simulate `runs` runs of excitation under the regulatory layer and `incidents` simulated incidents, each as long as its
    scenario, and store them as history that ends before plant time `end_s`. Returns the plant-hours stored.

    Runs lie one after another, with gaps, before anything already stored. Deterministic from `seed`.
    """
    historian.register(spec)
    kinds = [(excitation_run, "excitation", runs), (incident_run, "incident", incidents)]
    samples = {kind: load_scenario(kind, spec).samples(spec) for _, kind, count in kinds if count}
    length = spec.sample_time_s * (max(samples.values(), default=0) + 10)
    first = historian.runs()["start_ts"].min()
    end_s = min(end_s, float(first) / 1e6) if isinstance(first, int) else end_s  # older than what is there
    start_s = np.floor(end_s - length * (runs + incidents + 1))
    done, hours, total = 0, 0.0, runs + incidents
    for simulate, kind, count in kinds:
        for batch in range(0, count, _BATCH):
            size = min(_BATCH, count - batch)
            number = seed * 100_003 + (0 if kind == "excitation" else 50_000) + batch // _BATCH
            recording = simulate(spec, size, samples[kind], number)
            hours += _store(spec, historian, recording, start_s + length * done, length)
            done += size
            historian.flush(600.0)
            if progress:
                progress(kind, done, total)
    return hours


def _store(spec: PlantSpec, historian: Historian, recording: Recording, start_s: float, length: float) -> float:
    """MVs are stamped where the interval began whose mean they are: there they were set, and they held."""
    spans, samples, mvs = [], 0, {t.name for t in spec.mvs}
    for i, run in enumerate(split(recording)):
        n = len(next(iter(run.values())))
        if n < 2:
            continue
        times = start_s + i * length + np.arange(n, dtype=np.float64) * spec.sample_time_s
        historian.sample_block({tag: v for tag, v in run.items() if tag not in mvs}, times)
        historian.sample_block({tag: v for tag, v in run.items() if tag in mvs}, times - spec.sample_time_s)
        spans.append((float(times[0]), float(times[-1])))
        samples += n
    historian.add_runs(recording.kind, spans, recording.seed, recording.facts)
    return samples * spec.sample_time_s / 3600
