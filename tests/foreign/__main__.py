"""`python -m tests.foreign [PORT] [--shift N] [--without PART ...] [--file]`: serve the plant until interrupted.

Lines on standard input set faults by name, as Python literals: `freeze_all=True`, `bad={"T": 0x80050000}`; `clear` ends all.
`--file` writes the plant file to standard output and serves nothing.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import sys

import yaml

from plant.spec import PlantSpec
from tests.foreign.plant import Faults, ForeignPlant, plant_file


async def serve(port: int, shift: int, without: tuple[str, ...]) -> None:
    async with ForeignPlant(port, shift, without) as plant:
        sys.stdout.write(f"{plant.endpoint}\n")
        sys.stdout.flush()
        loop = asyncio.get_running_loop()
        while line := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
            if line == "clear":
                plant.faults = Faults()
                continue
            name, _, value = line.partition("=")
            setattr(plant.faults, name.strip(), ast.literal_eval(value))
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int, nargs="?", default=4855)
    parser.add_argument("--shift", type=int, default=0)
    parser.add_argument("--without", nargs="*", default=[])
    parser.add_argument("--file", action="store_true")
    given = parser.parse_args()
    without = tuple(given.without)
    if given.file:
        written = plant_file(f"opc.tcp://127.0.0.1:{given.port}/area21", without)
        plain = PlantSpec.model_validate(written).model_dump(mode="json", exclude_defaults=True)
        sys.stdout.write(yaml.safe_dump(plain, sort_keys=False))
    else:
        asyncio.run(serve(given.port, given.shift, without))


if __name__ == "__main__":
    main()
