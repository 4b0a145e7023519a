"""The agent as a process: puts the parts together, starts and stops them in order.

What is on disk serves before any network is looked for. Each part that runs has a thread
of its own; one that crashes is logged, told upstream and started again, and nothing that
happens to it stops the others.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import secrets
import signal
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Final

from wherry_contract.errors import StoreError
from wherry_contract.messages import State

from . import __version__
from .clock import Clock, SystemClock
from .config import AgentConfig
from .core import build_core, open_outbox
from .identity.tls import Tls
from .link.commands import STATE as COMMANDS
from .link.commands import Commands
from .link.fact import Fact
from .link.log_ring import LogRing, where
from .link.mqtt import Handlers, Link
from .link.outbox import Outbox
from .pulse import UPDATES, Notifier, Pulse, Watchdog
from .serving.listen import LISTENING_FILE
from .serving.server import Hooks, HttpServer
from .serving.service import Service
from .store import StatePair, as_store_error, durable_write, folder_lock
from .system import system
from .thrift import give_back, share_memory
from .trust.tuf_trust import open_clock
from .update.fetch import Depot, Source

_TICK_SECONDS: Final = 1.0
_FLUSH_RETRY_SECONDS: Final = 5.0
_DRAIN_SECONDS: Final = 5.0
_JOIN_SECONDS: Final = 8.0
_RESTART_CEILING_SECONDS: Final = 60.0
_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
_MEMORY_MIB: Final = 4.0

_log = logging.getLogger("wherry")


def restart_pause(former: float, lived: float) -> float:
    """Seconds to wait before a part that crashed is started again.

    Args:
        former: the pause before it was started, 0 if it was the first time.
        lived: seconds from then until it crashed.

    Returns:
        The double of the former pause, up to a minute; one second again if it lived longer.
    """
    if lived > _RESTART_CEILING_SECONDS:
        return _TICK_SECONDS
    return min(max(_TICK_SECONDS, 2 * former), _RESTART_CEILING_SECONDS)


def _memory() -> Path | None:
    """Where files stay in memory; nothing leaves the choice to `tempfile`."""
    return _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None


class Agent:
    """One running agent."""

    def __init__(
        self, config: AgentConfig, clock: Clock | None = None, notifier: Notifier | None = None
    ) -> None:
        self._config = config
        self._notifier = notifier or Notifier({}, 0)
        self._clock = open_clock(config, clock or SystemClock())
        self._asked: SimpleQueue[None] = SimpleQueue()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._session = secrets.token_hex(8)
        self._started_at = self._clock.now()
        self._unspoken: list[Fact] = []
        self._pulse = Pulse(self._clock.monotonic)
        self._ring = LogRing()

    def stop(self) -> None:
        """End `run` soon; may be called from a signal handler.

        An Event may not: its lock may be held by the very thread that the signal interrupts.
        """
        self._asked.put(None)

    def run(self) -> None:
        """Serve until told to stop, then leave nothing behind.

        Raises:
            WherryError: the agent cannot start: its folder, port or runtime is not to be had.
        """
        with ExitStack() as stack:
            _log.addHandler(self._ring)
            stack.callback(_log.removeHandler, self._ring)
            stack.enter_context(folder_lock(self._config.state_dir))
            self._outbox = self._open_outbox(stack)
            identity = self._config.identity
            self._tls = Tls(identity, self._clock.now) if identity else None
            source = self._open_source()
            self._core = build_core(self._config, self._outbox, self._clock, source)
            for fact in self._unspoken:
                self._core.spool.tell(fact)
            self._core.updater.start()
            self._commands = self._open_commands()
            self._server = self._open_port()
            stack.callback(self._say_where, "")
            self._link = self._new_link()
            self._start_threads()
            give_back()
            watchdog = Watchdog(self._notifier, self._pulse, self._overdue)
            self._notifier.ready()
            self._notifier.status(f"serving on {self._server.address}")
            while not self._is_asked():
                self._core.scorer.tick()
                watchdog.feed(self._server.address)
            self._notifier.stopping()
            self._stop.set()
            self._end()

    def _open_source(self) -> Source:
        """Where bundles come from."""
        depot, place = Depot(self._config.depot, tls=self._tls), self._config.registry
        if place is None:
            return depot
        from .update.registry import open_registry  # only who has one carries it

        return open_registry(place, self._config.family, depot, self._clock.now, self._say)

    def _say(self, fact: Fact, key: str) -> None:
        self._core.spool.tell(fact, key=key)

    def _is_asked(self) -> bool:
        """Whether somebody wants the end; waits a while for it."""
        try:
            self._asked.get(timeout=_TICK_SECONDS)
        except Empty:
            return False
        return True

    def _overdue(self) -> int:
        return self._server.overdue(self._config.limits.stuck_answer_seconds)

    def _open_outbox(self, stack: ExitStack) -> Outbox:
        """The outbox; where the disk will not have it, one in memory until the next start."""
        try:
            return open_outbox(self._config)
        except StoreError as error:
            self._unspoken.append(Fact.of(error))
        limits = self._config.limits
        try:
            folder = tempfile.TemporaryDirectory(prefix="wherry-", dir=_memory())
            memory = Path(stack.enter_context(folder))
        except OSError as error:
            raise as_store_error(error, "no place for an outbox") from error
        mib = min(_MEMORY_MIB, limits.outbox_mib)
        return Outbox(memory, self._config.device, mib=mib, days=limits.outbox_days)

    def _open_commands(self) -> Commands:
        core, config = self._core, self._config
        commands = Commands(
            config,
            StatePair(config.state_dir, COMMANDS),
            core.trust,
            core.spool,
            self._clock,
            self._ring,
            quiet=lambda: core.updater.held,
        )
        commands.start()
        return commands

    def _open_port(self) -> HttpServer:
        service = Service(self._config, self._core.scorer, self._session, self._core.updater.hold)
        hooks = Hooks(
            handle=service.handle,
            refused=lambda code: self._core.scorer.refuse(code, 1),
            crashed=lambda error: self._crashed("serving", error),
        )
        server = HttpServer(self._config.listen, self._config.limits, hooks)
        self._say_where(server.address)
        _log.info("serving on %s", server.address)
        return server

    def _say_where(self, address: str) -> None:
        path = self._config.state_dir / LISTENING_FILE
        with contextlib.suppress(OSError, StoreError):  # a full disk stops no payment
            if address:
                durable_write(path, address.encode() + b"\n")
            else:
                path.unlink(missing_ok=True)

    def _new_link(self) -> Link | None:
        if self._config.broker is None:
            _log.warning("no broker is configured: nothing is reported")
            return None
        updater = self._core.updater
        handlers = Handlers(
            assignment=updater.offer,
            tell=self._tell,
            state=self._state,
            command=self._commands.take,
        )
        link = Link(self._config, self._session, self._outbox, self._clock, handlers, tls=self._tls)
        updater.on_change(link.changed)
        self._commands.changed = link.changed
        return link

    def _tell(self, fact: Fact, key: str | None) -> None:
        """Take a fact of the link's; a certificate out of its dates may be a clock that is wrong."""
        self._core.spool.tell(fact, key=key)
        if fact.code == "L11":
            self._clock.question()
            self._core.updater.wake.set()

    # --- threads ------------------------------------------------------------------------

    def _start_threads(self) -> None:
        self._start("serving", self._server.run)
        self._start("outbox", self._flush)
        self._start("updater", self._update)
        self._start("commands", self._obey)
        link, broker = self._link, self._config.broker
        if link and broker:
            self._start("link", lambda: link.run(broker))

    def _start(self, name: str, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=self._keep, args=(name, work), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _keep(self, name: str, work: Callable[[], None]) -> None:
        """Run a part, and run it again if it crashes, with a growing pause between."""
        pause = 0.0
        while not self._stop.is_set():
            began = self._clock.monotonic()
            try:
                work()
            except Exception as error:  # noqa: BLE001 - a bug in one part must not stop the others
                self._crashed(name, error)
                pause = restart_pause(pause, self._clock.monotonic() - began)
                self._stop.wait(pause)
            else:
                return

    def _crashed(self, name: str, error: Exception) -> None:
        """A bug: its trace goes to the log, the fact goes upstream, once an hour for each kind."""
        _log.error("%s crashed and goes on", name, exc_info=error)
        kind = type(error).__name__
        # not in its own words: they may repeat what was scored
        place = where(type(error), error.__traceback__)
        fact = Fact("agent.crash", f"{name}: {place}"[:500], "error")
        hour = int(self._clock.now() // 3600)
        self._core.spool.tell(fact, key=f"crash:{name}:{kind}:{hour}")

    def _flush(self) -> None:
        spool = self._core.spool
        while not self._stop.is_set():
            spool.wake.wait()
            spool.wake.clear()
            while not spool.flush() and not self._stop.wait(_FLUSH_RETRY_SECONDS):
                pass

    def _update(self) -> None:
        updater, trust = self._core.updater, self._core.trust
        updater.beat = lambda: self._pulse.beat(UPDATES)
        self._pulse.watch(UPDATES, self._config.limits.stuck_update_seconds)
        if not self._stop.is_set():
            updater.check_active()
        while not self._stop.is_set():
            # without the time no certificate is good, and no order would ever come
            self._pulse.sleep(UPDATES, updater.wake, min(trust.settle(), updater.run_once()))
            updater.wake.clear()

    def _obey(self) -> None:
        commands = self._commands
        while not self._stop.is_set():
            commands.wake.wait(commands.run_once())
            commands.wake.clear()

    # --- the end ------------------------------------------------------------------------

    def _end(self) -> None:
        """Answer what was asked, close the window, store it, say goodbye."""
        _log.info("stopping")
        if not self._server.stop(_DRAIN_SECONDS):
            _log.warning("%d requests were cut off", self._server.connections)
        self._core.updater.stop()
        self._commands.wake.set()
        self._core.scorer.stop()
        self._core.spool.wake.set()
        self._join({"serving", "outbox"})
        if not self._core.spool.flush():
            _log.error("the disk did not take the last window")
        if self._link:
            self._link.stop()
        self._join({"link", "updater", "commands"})
        if not any(thread.is_alive() for thread in self._threads):
            self._outbox.close()
        _log.info("stopped")

    def _join(self, names: set[str]) -> None:
        """Wait for threads; one in the middle of a probe is left to end with the process."""
        for thread in self._threads:
            if thread.name in names:
                thread.join(_JOIN_SECONDS)

    # --- what is reported ---------------------------------------------------------------

    def _state(self) -> bytes:
        record, served = self._core.updater.record, self._core.scorer.served
        board, slot, away = self._core.board, record.serving, self._core.scorer.away
        return State(
            device=self._config.device,
            agent=__version__,
            runtime=board.runtime,
            runtime_version=board.runtime_version,
            architecture=board.architecture,
            labels=self._config.labels,
            session=self._session,
            spool=self._outbox.spool,
            phase=record.state,
            rollout=record.rollout,
            sequences=record.sequences,
            active=record.active,
            bundle=served.digest if served else "",
            bundle_name=served.manifest.name if served else "",
            bundle_version=served.manifest.version if served else "",
            trust=str(slot.trust),
            fallback=served is not None and (served.model is None or bool(away)),
            started_at=self._started_at,
            reported_at=self._clock.now(),
            commands=self._commands.sequences,
            extra=self._also() | ({"inputs": away} if away else {}),
        ).to_bytes()

    def _also(self) -> dict[str, object]:
        held = {"dropped": self._outbox.dropped}
        with contextlib.suppress(StoreError):  # a report without this figure is still one
            held["waiting"] = self._outbox.waiting
        features = sorted(self._config.features)
        also: dict[str, object] = {"features": features} if features else {}
        shadow = self._core.scorer.shadow
        if shadow:
            done = shadow.progress
            tried = {"rows": done.rows, "failed": done.failed, "differing": done.differing}
            also["shadow"] = {"bundle": shadow.digest, "off": done.off} | tried
        return {"outbox": held, "system": system()} | also


def run_agent(config: AgentConfig, notifier: Notifier) -> None:
    """Run an agent in this process until SIGTERM or SIGINT.

    Args:
        config: what it is told.
        notifier: the service manager.

    Raises:
        WherryError: it cannot start.
    """
    share_memory()
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    faulthandler.enable()  # where every thread was, if the watchdog ends us
    agent = Agent(config, notifier=notifier)

    def leave(_number: int, _frame: FrameType | None) -> None:
        agent.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    agent.run()
