"""The `homeostat` command: one subcommand for each step in the life of a deployment (`homeostat.commands`)."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import typer
from rich.markup import escape

from homeostat.commands import excite, models, operation, plants
from homeostat.commands.common import err
from plant.errors import HomeostatError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Run a plant by a learned world model: simulate, record, train, plan inside guardrails, control over OPC UA.",
)
for part in (plants, excite, models, operation):  # as a deployment lives, and so the help
    app.add_typer(part.app)


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and library logs.")] = False,
) -> None:
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    if not debug:
        logging.getLogger("asyncua").setLevel(logging.CRITICAL)  # our own link says what was lost, in one line
        logging.getLogger("alembic").setLevel(logging.WARNING)
    os.environ["HOMEOSTAT_DEBUG"] = "1" if debug else ""


def main() -> None:
    """Entry point: errors made on purpose are one line; anything else too, unless --debug."""
    try:
        code = app(standalone_mode=False)  # an exit status given by `typer.Exit` comes back as the result
    except typer.Abort:
        code = 130
    except HomeostatError as e:
        if os.environ.get("HOMEOSTAT_DEBUG"):
            raise
        code = say_error(str(e))
    except KeyboardInterrupt:
        code = 130
    except Exception as e:
        if hasattr(e, "format_message"):  # click's own usage errors; without a word where the help was the answer
            code = 2
            if message := e.format_message().rstrip("."):  # type: ignore[attr-defined]
                say_error(f"{message}. See --help.")
        elif os.environ.get("HOMEOSTAT_DEBUG"):
            raise
        else:
            code = say_error(f"{type(e).__name__}: {e}. Run again with --debug.", "internal error")
    sys.exit(code if isinstance(code, int) else 0)


def say_error(message: str, what: str = "error") -> int:
    """An error as one line on stderr; returns the exit status that goes with it."""
    line = escape(" ".join(message.split()))  # a message may hold [brackets], which are no markup
    err.print(f"[bold red]{what}[/bold red]: {line}", soft_wrap=True, highlight=False)
    return 1
