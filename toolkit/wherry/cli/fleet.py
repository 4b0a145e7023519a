"""`wherry push` and `wherry rollout`: what operators do with a fleet."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import click

from wherry.client import Client, find_client, segment
from wherry.folder import home
from wherry.outcomes import FAILED, shown
from wherry.verified import recorded
from wherry_contract.errors import GateError, RolloutError
from wherry_contract.states import RolloutState

from .options import Pair, judging_options, select_option, server_options
from .output import Seconds, ShadowWave, confirm, json_option, say, show, table, yes_option
from .plans import plan_lines
from .steer import (
    rollout_explain,
    rollout_history,
    rollout_pause,
    rollout_resume,
    rollout_undo,
)

_POLL_SECONDS: Final = 0.5
_ENDED: Final = (RolloutState.DONE, RolloutState.REVERTED)


# --- push -------------------------------------------------------------------------------


@click.command(
    epilog="Example: wherry push fraud-1.4.0.wherry --to 'board=pi3,site!=7' --waves 1%,10%,100%"
)
@click.argument("bundle", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@select_option
@click.option(
    "--to",
    default="",
    metavar="SELECTOR",
    help="Devices that are meant, as board=pi3|pi4,site!=7,group=pilot; all of the family else.",
)
@click.option("--dry-run", is_flag=True, help="Show the plan, and change nothing.")
@click.option(
    "--waves",
    default="1,100%",
    show_default=True,
    help="Ends of the waves, as counts or shares of all; the first is the canary.",
)
@click.option(
    "--shadow",
    type=ShadowWave(),
    help="First the canary scores so much of its traffic with both models, unused: 200tx,30m.",
)
@click.option("--soak", type=Seconds(), help="How long each device soaks; else the bundle says.")
@click.option("--soak-rows", type=click.IntRange(0), help="Rows that it must score meanwhile.")
@judging_options(quorum=1.0)
@click.option(
    "--gates",
    default="auto",
    show_default=True,
    help="auto: where the waves are large enough; none; or names, which then must decide.",
)
@click.option("--limit", "limits", type=Pair(), multiple=True, help="Of a gate, as latency=1.")
@yes_option
@click.option("--wait", is_flag=True, help="Follow it to its end; exit 1 if it was aborted.")
@json_option
@server_options
def push(
    *,
    bundle: Path,
    select: tuple[tuple[str, str], ...],
    to: str,
    dry_run: bool,
    waves: str,
    shadow: tuple[int, int] | None,
    soak: float | None,
    soak_rows: int | None,
    max_failures: int,
    quorum: float,
    silent_after: float,
    gates: str,
    limits: tuple[tuple[str, str], ...],
    looks: int,
    look_every: float,
    confidence: float,
    server: str,
    token_file: Path | None,
    yes: bool,
    wait: bool,
    as_json: bool,
) -> None:
    """Roll a bundle out to devices, wave by wave.

    The file goes into the depot, the plan is shown, and when you agree the canary gets
    its order. A wave passes when its devices have committed and are healthy; a failure
    takes everybody back.
    """
    client = find_client(server, token_file)
    with bundle.open("rb") as stream:
        taken = client.upload("bundles", stream, bundle.stat().st_size)
    order: dict[str, Any] = {
        "bundle": taken["digest"],
        "select": dict(select),
        "to": to,
        "waves": [share.strip() for share in waves.split(",")],
        "soak_seconds": -1 if soak is None else round(soak),
        "soak_rows": -1 if soak_rows is None else soak_rows,
        "max_failures": max_failures,
        "quorum": quorum,
        "silent_seconds": silent_after,
        "gates": [name.strip() for name in gates.split(",")],
        "gate_limits": {name: _number(value) for name, value in limits},
        "looks": looks,
        "look_seconds": look_every,
        "confidence": confidence,
    }
    if shadow:
        order |= {"shadow_rows": shadow[0], "shadow_seconds": shadow[1]}
    if boards := recorded(home(), taken["digest"]):  # what it was verified on, for the report
        order["boards"] = dict(boards)
    plan = client.post("rollouts", order | {"dry_run": True})
    if dry_run:
        show("wherry/rollout-plan/1", plan, plan_lines(plan), as_json=as_json)
        return
    confirm(plan_lines(plan), yes=yes)
    found = client.post("rollouts", order)
    say(f"rollout {found['id']} has begun")
    if wait:
        found = _follow(client, found["id"])
    show("wherry/rollout/1", found, [found["id"]], as_json=as_json)
    if wait:
        _check_done(found)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise click.UsageError(f"--limit {text!r} should be a number") from error


def _follow(client: Client, name: str) -> dict[str, Any]:
    """Tell of every step until the rollout has ended."""
    told, before = 0, ""
    while True:
        found = client.get(f"rollouts/{segment(name)}")
        for step in found["decisions"][told:]:
            say(f"{step['before']} -> {step['after']}: {step['reason']}")
        told = len(found["decisions"])
        line = _progress_line(found)
        if line != before:
            say(line)
            before = line
        if found["state"] in _ENDED:
            return found
        time.sleep(_POLL_SECONDS)


def _progress_line(found: Mapping[str, Any]) -> str:
    counts: dict[str, int] = {}
    for item in found["devices"]:
        word = _progress(item)
        counts[word] = counts.get(word, 0) + 1
    parts = ", ".join(f"{count} {word}" for word, count in sorted(counts.items()))
    return f"{found['state']}, wave {found['wave'] + 1} of {found['waves']}: {parts}"


def _progress(item: Mapping[str, Any]) -> str:
    if item["reverted_at"] and item["outcome"] not in FAILED:
        if item.get("phase") not in ("", "idle"):
            return "going back"
        return "still on it" if item.get("on_it") else "taken back"
    if item["outcome"]:
        return str(item["outcome"])
    ordered = item["offered_at"] or item["sequence"]  # the second alone is a shadow's
    return str(item.get("phase") or "offered") if ordered else "waiting"


def _check_done(found: Mapping[str, Any]) -> None:
    if found["state"] != RolloutState.DONE:
        why = [step["reason"] for step in found["decisions"] if step["after"] == "aborted"]
        raise GateError("Q02", f"{found['id']}: {(why or [''])[0]}")


# --- rollout ----------------------------------------------------------------------------


@click.group(epilog="Example: wherry rollout status r3-fraud-1-4-0 --watch")
def rollout() -> None:
    """List, follow and stop rollouts."""


@rollout.command("list", epilog="Example: wherry rollout list --json")
@json_option
@server_options
def rollout_list(server: str, token_file: Path | None, *, as_json: bool) -> None:
    """List rollouts, the oldest first."""
    found = find_client(server, token_file).get("rollouts")
    rows = [
        (
            item["id"],
            item["state"],
            f"{item['wave'] + 1}/{item['waves']}",
            len(item["devices"]),
            sum(device["outcome"] == "committed" for device in item["devices"]),
            sum(device["outcome"] in FAILED for device in item["devices"]),
            item["created_at"],
        )
        for item in found["rollouts"]
    ]
    heads = ("rollout", "state", "wave", "devices", "committed", "failed", "begun")
    show("wherry/rollouts/1", found, table(heads, rows), as_json=as_json)


@rollout.command("status", epilog="Example: wherry rollout status r3-fraud-1-4-0")
@click.argument("name", required=False)
@click.option("--watch", is_flag=True, help="Follow it to its end; exit 1 if it was aborted.")
@json_option
@server_options
def rollout_status(
    name: str | None, server: str, token_file: Path | None, *, watch: bool, as_json: bool
) -> None:
    """Show one rollout: devices, decisions and their figures.

    Without a NAME, the newest.
    """
    client = find_client(server, token_file)
    name = name or _newest(client)
    found = _follow(client, name) if watch else client.get(f"rollouts/{segment(name)}")
    show("wherry/rollout/1", found, _status_lines(found), as_json=as_json)
    if watch:
        _check_done(found)


def _newest(client: Client) -> str:
    found = client.get("rollouts")["rollouts"]
    if not found:
        raise RolloutError("R01", "there was none yet", cure="begin one with `wherry push`")
    return str(found[-1]["id"])


def _status_lines(found: Mapping[str, Any]) -> Iterable[str]:
    yield f"{found['id']}: {found['name']} {found['version']}, {found['bundle']}"
    yield _progress_line(found)
    yield from _shadow_lines(found.get("shadow"))
    yield ""
    rows = [
        (
            item["device"],
            item["wave"] + 1,
            _progress(item),
            item["code"] or "-",
            item["offered_at"] or "-",
            item["settled_at"] or "-",
            item["detail"][:80],
        )
        for item in found["devices"]
    ]
    heads = ("device", "wave", "is", "code", "offered", "settled", "detail")
    yield from table(heads, rows)
    yield ""
    for step in found["decisions"]:
        figures = ", ".join(f"{name} {value}" for name, value in shown(step["figures"]).items())
        yield f"{step['at']}  {step['before']} -> {step['after']}: {step['reason']}  [{figures}]"


def _shadow_lines(shadow: Mapping[str, Any] | None) -> Iterable[str]:
    if not shadow:
        return
    share, low, high = (100 * shadow[name] for name in ("share", "low", "high"))
    yield (
        f"shadow: {shadow['differing']} of {shadow['shadow_rows']} rows on"
        f" {shadow['shadow_devices']} devices decided otherwise,"
        f" {share:.2f} % ({low:.2f} to {high:.2f} %)"
    )
    flips = f"{shadow['only_shadow']} flagged by it alone, {shadow['only_live']} no more"
    lost = f"{shadow['shadow_failed']} failed, {shadow['dropped']} not asked"
    yield f"  {flips}; {lost}; PSI of scores {shadow['psi']:.3f}"
    for item in shadow["devices"]:
        if item["off"]:
            yield f"  {item['device']}: switched off: {item['off']}"


@rollout.command("abort", epilog="Example: wherry rollout abort r3-fraud-1-4-0 --why 'wrong file'")
@click.argument("name")
@click.option("--why", default="", help="The reason; it is kept with the decision.")
@yes_option
@json_option
@server_options
def rollout_abort(
    name: str, why: str, server: str, token_file: Path | None, *, yes: bool, as_json: bool
) -> None:
    """Stop a rollout and take its devices back, the last one first."""
    client = find_client(server, token_file)
    found = client.get(f"rollouts/{segment(name)}")
    confirm(_abort_lines(found), yes=yes)
    found = client.post(f"rollouts/{segment(name)}/abort", {"why": why})
    say(f"rollout {found['id']} ends; follow it with `wherry rollout status {name} --watch`")
    show("wherry/rollout/1", found, [found["id"]], as_json=as_json)


def _abort_lines(found: Mapping[str, Any]) -> Iterable[str]:
    exposed = [item for item in found["devices"] if item["offered_at"] or item["sequence"]]
    reach = f"{len(exposed)} of {len(found['devices'])} devices have the order and go back"
    yield f"{found['id']} is {found['state']}; {reach} to what they ran before"
    first = sum(item["previous"] in {"", found["bundle"]} for item in exposed)
    if first:
        yield f"{first} of them ran no other bundle: who has committed this one keeps it"


for command in (rollout_pause, rollout_resume, rollout_undo, rollout_history, rollout_explain):
    rollout.add_command(command)
