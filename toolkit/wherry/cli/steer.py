"""What operators do with a rollout that is there: pause, resume, pass, undo, history, explain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from wherry.client import find_client, segment
from wherry.outcomes import shown
from wherry_contract.errors import GateError

from .options import server_options
from .output import confirm, json_option, say, show, table, yes_option
from .plans import plan_lines

_why = click.option("--why", default="", help="The reason; it is kept with the rollout.")


@click.command("pause", epilog="Example: wherry rollout pause r3-fraud-1-4-0 --why 'sale weekend'")
@click.argument("name")
@_why
@json_option
@server_options
def rollout_pause(
    name: str, why: str, server: str, token_file: Path | None, *, as_json: bool
) -> None:
    """Give no more orders until `resume`.

    Devices that have theirs go on; failures still take everybody back.
    """
    found = find_client(server, token_file).post(f"rollouts/{segment(name)}/pause", {"why": why})
    show("wherry/rollout/1", found, [found["id"]], as_json=as_json)


@click.command("resume", epilog="Example: wherry rollout resume r3-fraud-1-4-0")
@click.argument("name")
@click.option("--past-gates", is_flag=True, help="Go past undecided gates of the present wave.")
@_why
@yes_option
@json_option
@server_options
def rollout_resume(
    name: str,
    why: str,
    server: str,
    token_file: Path | None,
    *,
    past_gates: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Go on with a rollout that was paused, or past gates that cannot decide.

    Going past gates is a person's decision: it is kept with the reason, is for the present
    wave alone, and does not help a wave of which a gate has failed.
    """
    client = find_client(server, token_file)
    path = f"rollouts/{segment(name)}"
    if past_gates:
        if not why:
            raise click.UsageError("say why with --why")
        before = client.get(path)
        last = before["decisions"][-1]["reason"] if before["decisions"] else ""
        wave = f"wave {before['wave'] + 1} of {before['waves']}"
        confirm([f"{name} goes past the gates of {wave}; last: {last}"], yes=yes)
        found = client.post(f"{path}/pass", {"why": why, "wave": before["wave"]})
    else:
        found = client.post(f"{path}/resume", {"why": why})
        if found["state"] == "hold" and found["decisions"]:
            last = found["decisions"][-1]["reason"]
            say(f"{name} is on hold: {last}; see `wherry rollout resume --past-gates`")
    show("wherry/rollout/1", found, [found["id"]], as_json=as_json)


@click.command("undo", epilog="Example: wherry rollout undo r3-fraud-1-4-0 --waves 10%,100%")
@click.argument("name")
@click.option("--waves", default="10%,100%", show_default=True, help="As for `wherry push`.")
@click.option("--dry-run", is_flag=True, help="Show the plan, and change nothing.")
@yes_option
@json_option
@server_options
def rollout_undo(
    name: str,
    waves: str,
    server: str,
    token_file: Path | None,
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Roll the bundle of before out again, to devices that run this one.

    An ordinary rollout with waves of its own: the bundle of before is still released, so
    nobody has to sign anything.
    """
    client = find_client(server, token_file)
    path = f"rollouts/{segment(name)}/undo"
    order: dict[str, Any] = {"waves": [share.strip() for share in waves.split(",")]}
    plan = client.post(path, order | {"dry_run": True})
    lines = plan_lines(plan)
    if plan["others"]:
        lines.append(f"  {plan['others']} ran another bundle before, or none: they keep this one")
    if dry_run:
        show("wherry/rollout-plan/1", plan, lines, as_json=as_json)
        return
    confirm(lines, yes=yes)
    found = client.post(path, order)
    say(f"rollout {found['id']} has begun")
    show("wherry/rollout/1", found, [found["id"]], as_json=as_json)


@click.command("history", epilog="Example: wherry rollout history r3-fraud-1-4-0 --json")
@click.argument("name")
@json_option
@server_options
def rollout_history(name: str, server: str, token_file: Path | None, *, as_json: bool) -> None:
    """Show every decision of a rollout and every word of an operator, the oldest first."""
    found = find_client(server, token_file).get(f"rollouts/{segment(name)}/explain")
    rows = [
        (item["at"], f"{item['before']} -> {item['after']}", item["reason"])
        for item in found["steps"]
    ]
    rows += [(item["at"], f"operator: {item['what']}", item["why"]) for item in found["words"]]
    lines = table(("at", "what", "why"), sorted(rows))
    show("wherry/rollout-explain/1", found, lines, as_json=as_json)


@click.command("explain", epilog="Example: wherry rollout explain r3-fraud-1-4-0")
@click.argument("name")
@json_option
@server_options
def rollout_explain(name: str, server: str, token_file: Path | None, *, as_json: bool) -> None:
    """Make every decision again from the figures that are stored with it.

    Exit code 1 if one comes out otherwise: then figures or program were changed since.
    """
    found = find_client(server, token_file).get(f"rollouts/{segment(name)}/explain")
    show("wherry/rollout-explain/1", found, _explain_lines(found), as_json=as_json)
    wrong = [item for item in found["steps"] if item["replayed"] and not item["same"]]
    if wrong:
        detail = f"the decision of {wrong[0]['at']} comes out otherwise: {wrong[0]['differs']}"
        raise GateError("Q02", detail, cure="look for who changed the store or the server")


def _explain_lines(found: Mapping[str, Any]) -> Iterable[str]:
    yield f"{found['id']} is {found['state']}"
    for item in found["steps"]:
        again = "made again: the same" if item["same"] else "made again: DIFFERENT"
        if not item["replayed"]:
            again = "of an earlier version: not all figures were kept"
        yield ""
        yield f"{item['at']}  wave {item['wave'] + 1}  {item['before']} -> {item['after']}"
        yield f"  {item['reason']}"
        yield "  " + ", ".join(f"{name} {value}" for name, value in shown(item["figures"]).items())
        yield from (f"  {line}" for line in _gate_lines(item["gates"]))
        yield f"  ({again})"


def _gate_lines(results: Iterable[Mapping[str, Any]]) -> list[str]:
    rows = [
        (
            item["name"],
            item["said"],
            f"{item['difference']:+.4g}",
            f"{item['limit']:.4g}",
            f"{item['chance']:.2g}",
            f"{item['miss']:.2g}",
            item["canary"],
            item["control"],
        )
        for item in results
    ]
    heads = ("gate", "says", "difference", "limit", "chance", "miss", "canary", "control")
    return table(heads, rows) if rows else []
