"""`wherry simulate`: a rollout on modelled devices, before there is one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import judging_options
from .output import Seconds, json_option, say, show

if TYPE_CHECKING:
    from wherry.simulate.run import Outcomes

_MODELS = ("same", "calibration", "nan", "slow", "swapped", "categories", "memory")


@click.command(
    epilog="Example: wherry simulate --devices 10000 --model calibration --waves 1%,10%,100%"
)
@click.option(
    "--devices",
    type=click.IntRange(1, 1_000_000),
    default=1000,
    show_default=True,
    help="Size of the modelled fleet.",
)
@click.option(
    "--model",
    type=click.Choice(_MODELS),
    default="same",
    show_default=True,
    help="What the new model does: nothing new, or one of the ways to be bad.",
)
@click.option("--waves", default="1%,10%,50%,100%", show_default=True, help="As for push.")
@click.option(
    "--soak", type=Seconds(), default="30m", show_default=True, help="Length of each soak."
)
@click.option("--soak-rows", type=click.IntRange(0), default=0, help="Rows of each soak.")
@judging_options(quorum=0.95)
@click.option(
    "--flaky",
    type=click.FloatRange(0, 1),
    default=0.14,
    show_default=True,
    help="Share of devices whose line is down for ten minutes of every hour.",
)
@click.option(
    "--nightly",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Share that is switched off for ten hours of every day.",
)
@click.option(
    "--absent",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="Share that is away all the time.",
)
@click.option(
    "--refusing",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Share that refuses every bundle.",
)
@click.option(
    "--bundle",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Takes its size from this bundle; else 500 kB.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="The same seed gives the same run.",
)
@json_option
def simulate(
    *,
    devices: int,
    model: str,
    waves: str,
    soak: float,
    soak_rows: int,
    quorum: float,
    max_failures: int,
    silent_after: float,
    looks: int,
    look_every: float,
    confidence: float,
    flaky: float,
    nightly: float,
    absent: float,
    refusing: float,
    bundle: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Try a rollout on modelled devices.

    It is planned and judged by what plans and judges on the server.

    Says how long it takes to reach 50, 95 and 99 %, what is fetched, and how many devices
    a bad model is live on before it is taken back. What is modelled, and what that leaves
    out: docs/rollouts.md.
    """
    from wherry.gates.rules import Rules
    from wherry.server.rollout import Policy
    from wherry.simulate.links import Habits
    from wherry.simulate.run import Scene
    from wherry.simulate.run import simulate as run

    if flaky + nightly + absent > 1:
        raise click.UsageError("--flaky, --nightly and --absent add up to more than 1")
    rules = Rules(looks=looks, look_seconds=look_every, confidence=confidence)
    policy = Policy(
        shares=tuple(share.strip() for share in waves.split(",")),
        soak_rows=soak_rows,
        soak_seconds=round(soak),
        max_failures=max_failures,
        silent_seconds=silent_after,
        quorum=quorum,
        gates=rules.to_dict(),
    )
    habits = Habits(flaky=flaky, nightly=nightly, absent=absent, refusing=refusing)
    size = bundle.stat().st_size if bundle else 500_000
    say(f"simulating {devices} devices")
    found = run(Scene(devices, model, policy, habits, size, seed))
    document = _document(found) | {"devices": devices, "model": model, "seed": seed}
    lines = _lines(found, devices)
    show("wherry/simulation/1", document, lines, as_json=as_json)


def _document(found: Outcomes) -> dict[str, Any]:
    return {
        "state": found.state,
        "reason": found.reason,
        "seconds": found.seconds,
        "reached_seconds": dict(found.reached),
        "exposed_devices": found.exposed,
        "exposed_device_seconds": found.exposed_seconds,
        "fetched_bytes": found.fetched,
        "peak_requests_per_second": found.peak,
        "decisions": [
            {
                "seconds": step.at,
                "before": step.before,
                "after": step.after,
                "wave": step.figures["wave"],
                "reason": step.reason,
            }
            for step in found.decisions
        ],
    }


def _lines(found: Outcomes, devices: int) -> Iterable[str]:
    for step in found.decisions:
        yield f"{_time(step.at)}  {step.before} -> {step.after}: {step.reason}"
    yield ""
    yield f"ends {found.state} after {_time(found.seconds)}"
    for percent, seconds in found.reached.items():
        yield f"  {percent} % of devices: {_time(seconds) if seconds is not None else 'not reached'}"
    share = 100 * found.exposed / devices
    hours = found.exposed_seconds / 3600
    yield f"  the new model was live on {found.exposed} devices ({share:.2f} %), {hours:.0f} hours"
    yield f"  fetched: {found.fetched / 1e6:.1f} MB; busiest second: {found.peak} requests"


def _time(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02} h"
