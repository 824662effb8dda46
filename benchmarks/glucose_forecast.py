"""The glucose forecast that comes with Homeostat, made again: `python -m benchmarks.glucose_forecast --out DIR` (two minutes).

Research and education only; not a medical device; not for dosing anyone; never connected to a pump or CGM.
"""

from __future__ import annotations

import argparse
import logging
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks.control_glucose import Sizes, forecast_of
from models.forecast_checkpoint import save
from simulators.glucose import DISCLAIMER

SEED = 0


def main() -> None:
    """Train on training patients alone, as the first seed of `benchmarks.control --plant glucose` does, and write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    logging.getLogger("simulators").setLevel(logging.ERROR)  # patients that leave the envelope are what is learned from
    began, sizes = time.monotonic(), Sizes()
    model = forecast_of("JEPA", SEED, sizes)
    facts = {
        "command": f"python -m benchmarks.glucose_forecast --out {out}",
        "date": datetime.now(UTC).date().isoformat(),
        "torch": torch.__version__,
        "seed": SEED,
        "patients": f"{sizes.training} generated training patients a cohort (adult, adolescent, child), twice",
        "record": f"{sizes.record} days under PD, {sizes.record + 1} behind a first forecast",
        "quantiles": list(model.config.quantiles),
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": model.config.steps,
    }
    save(out, model, facts, _card(facts))
    print(f"{out}: {time.monotonic() - began:.0f} s")


def _card(facts: dict[str, object]) -> str:
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return f"""# Forecast of glucose

{DISCLAIMER}

A JEPA of generated patients (UVA/Padova S2008) that answers mean and low quantiles of glucose for four hours under given doses. It is what
`controllers/library/glucose.yaml` puts between a PD and the pump of a simulated patient. It learned from open-loop doses given to
training patients; nobody held out was seen. `python -m benchmarks.control --plant glucose` measures it on held-out patients.

| | |
|---|---|
{rows}
"""


if __name__ == "__main__":
    main()
