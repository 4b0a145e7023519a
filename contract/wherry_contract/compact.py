"""The compact form of windows, for links that cost by the byte. Specification: SPEC-compact.md.

The same content as the JSON form. What both sides know already is left out: the names and
the number of the slots stand in the bundle's reference profile, and so does what to expect in
each of them, from which counts are coded by their distance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from .bits import BitReader, BitWriter, ByteReader, Coder, CountCoder, DamagedError, varint
from .errors import MessageError
from .histograms import LATENCY_BINS, MEMORY_BINS, SCORE_BINS, TEMPERATURE_BINS
from .messages import LIMIT_BYTES, Place, open_payload
from .profile import ReferenceProfile
from .shadow import COARSE, COARSE_BINS, MAX_DECISIONS, OFF_WORDS, ShadowCounts
from .slots import FeatureCounts
from .when import to_seconds, to_text
from .window import Window
from .wire import compact

MAGIC: Final = b"W\x01"
MOST_WINDOWS: Final = 64
KNOWN_BYTES: Final = 8  # of a bundle's digest: enough to tell those of one depot apart

_REASONS: Final = ("rows", "time", "switch", "stop")
_CLASSES, _FLAGGED, _MEMORY, _TEMPERATURE, _PAIRS, _PROBING, _ERRORS, _EXTRA, _SHADOW = (
    1 << place for place in range(2, 11)
)
_MOST_NAMES: Final = 256
_MOST_CLASSES: Final = 4096

Find = Callable[[bytes], tuple[str, ReferenceProfile]]
"""From the first bytes of a bundle's digest to the digest and its profile."""


def write_window(window: Window, profile: ReferenceProfile) -> bytes | None:
    """One window, compact, as a batch of one.

    Args:
        window: counted against `profile`.
        profile: of the window's bundle.

    Returns:
        Nothing if only JSON can say it: it was not counted against this profile, or it holds
        what this form has no place for.
    """
    if not _is_of(window, profile):
        return None
    body = _write_body(window, profile)
    return MAGIC + varint(len(body)) + body


def join_windows(payloads: Iterable[bytes]) -> bytes:
    """One batch of several payloads."""
    return MAGIC + b"".join(payload.removeprefix(MAGIC) for payload in payloads)


def is_compact(payload: bytes) -> bool:
    """Whether a payload is not JSON."""
    return payload.startswith(MAGIC[:1])


def split_windows(data: bytes) -> list[bytes]:
    """The windows of a batch, each still to be read.

    Raises:
        MessageError: G01, G02 or G03.
    """
    if len(data) > LIMIT_BYTES:
        raise MessageError("G02", f"{len(data)} bytes")
    if data[:2] != MAGIC:
        code = "G03" if data[:1] == MAGIC[:1] and data[1:2] > MAGIC[1:] else "G01"
        raise MessageError(code, "a compact window begins otherwise")
    reader = ByteReader(data[2:])
    found: list[bytes] = []
    while not found or not reader.ended:
        if len(found) == MOST_WINDOWS:
            raise MessageError("G02", f"more than {MOST_WINDOWS} windows")
        try:
            found.append(reader.take(reader.varint()))
        except DamagedError as error:
            raise MessageError("G01", f"compact window: {error}") from error
    return found


def place_of(body: bytes) -> tuple[str, int] | None:
    """Spool and sequence of a window that may be wrong in all else."""
    reader = ByteReader(body)
    try:
        reader.varint()
        reader.take(KNOWN_BYTES)
        spool, seq = reader.take(8).hex(), reader.varint()
    except DamagedError:
        return None
    return (spool, seq) if seq else None


def read_window(body: bytes, device: str, find: Find) -> Window:
    """One window of a batch.

    Args:
        body: from `split_windows`.
        device: whose topic it came on.
        find: finds the profile that the window was counted against; raises `MessageError` G08
            if there is none.

    Raises:
        MessageError: G01, G03 or G08.
    """
    try:
        window, profile = _read_counts(ByteReader(body), device, find)
        # the JSON form has all that is to be checked, and a window has one form of each kind
        checked = Window.from_bytes(window.to_bytes())
    except (ValueError, OverflowError) as error:
        raise MessageError("G01", f"compact window: {error}") from error
    if write_window(checked, profile) != MAGIC + varint(len(body)) + body:
        raise MessageError("G01", "compact window: it is not as a writer has it")
    return checked


# --- one window -------------------------------------------------------------------------


def _is_of(window: Window, profile: ReferenceProfile) -> bool:
    slots = {item.name: len(item.counts.bins) for item in profile.features}
    known = {name: len(counts.bins) for name, counts in window.features.items()}
    pairs = {pair.name: len(pair.counts) for pair in profile.pairs}
    counted = {name: len(cells) for name, cells in window.pairs.items()}
    return (
        window.edges == profile.edges_id
        and window.bundle != ""
        and [*slots.items()] == [*known.items()]
        and [*counted.items()] in ([], [*pairs.items()])
        and 0 <= window.opened <= window.closed < 2**43
        and len(window.errors) <= _MOST_NAMES
        and len(window.probing) <= _MOST_NAMES
        and not (window.shadow and window.shadow.extra)
    )


def _write_body(window: Window, profile: ReferenceProfile) -> bytes:
    place = window.place
    opened, closed = round(window.opened * 1000), round(window.closed * 1000)
    parts = [
        varint(_flags(window)),
        bytes.fromhex(window.bundle.removeprefix("sha256:"))[:KNOWN_BYTES],
        bytes.fromhex(place.spool),
        *map(varint, (place.seq, place.seq - place.oldest, opened, closed - opened)),
        *map(varint, (window.rows, window.flagged, window.fallback, window.near)),
        *map(varint, (sum(window.latency), sum(window.memory), sum(window.temperature))),
    ]
    parts += [_write_names(names) for names in (window.errors, window.probing) if names]
    if window.classes:
        parts += [varint(len(window.classes)), *map(varint, window.classes)]
    if window.extra:
        text = compact({"schema": "wherry/extra/1+json"} | dict(window.extra))
        parts += [varint(len(text)), text]
    if window.shadow:
        parts += [_write_shadow(window.shadow)]
    writer = BitWriter()
    _Cells(writer, profile, window.rows, window.fallback).write(window)
    return b"".join([*parts, writer.to_bytes()])


def _flags(window: Window) -> int:
    there: Mapping[int, object] = {
        _CLASSES: window.classes,
        _FLAGGED: window.flagged_scores,
        _MEMORY: window.memory,
        _TEMPERATURE: window.temperature,
        _PAIRS: window.pairs,
        _PROBING: window.probing,
        _ERRORS: window.errors,
        _EXTRA: window.extra,
        _SHADOW: window.shadow,
    }
    return _REASONS.index(window.reason) + sum(bit for bit, value in there.items() if value)


def _write_names(names: Mapping[str, int]) -> bytes:
    parts = [varint(len(names))]
    for name, count in names.items():
        parts += [varint(len(name)), name.encode(), varint(count)]
    return b"".join(parts)


def _write_shadow(shadow: ShadowCounts) -> bytes:
    numbers = (shadow.rows, shadow.failed, shadow.dropped, shadow.cpu_ms, sum(shadow.latency))
    parts = [bytes.fromhex(shadow.bundle.removeprefix("sha256:"))[:KNOWN_BYTES]]
    parts += map(varint, (OFF_WORDS.index(shadow.off), *numbers, shadow.side, *shadow.decisions))
    return b"".join(parts)


def _read_shadow(reader: ByteReader, find: Find) -> ShadowCounts:
    """All but the histograms; of `latency` the sum, in its first bin."""
    bundle, _ = find(reader.take(KNOWN_BYTES))
    off, rows, failed, dropped, cpu_ms, timed, side = (reader.varint() for _ in range(7))
    if off >= len(OFF_WORDS) or side > MAX_DECISIONS:
        raise DamagedError("a shadow that is not one")
    decisions = tuple(reader.varint() for _ in range(side**2))
    return ShadowCounts(
        bundle,
        rows,
        failed,
        dropped,
        decisions,
        latency=(timed, *(0,) * (LATENCY_BINS - 1)),
        cpu_ms=cpu_ms,
        off=OFF_WORDS[off],
    )


def _read_names(reader: ByteReader) -> dict[str, int]:
    size = reader.varint()
    if not 0 < size <= _MOST_NAMES:
        raise DamagedError("too many names")
    found = {}
    for _ in range(size):
        name = reader.take(reader.varint()).decode("ascii")
        found[name] = reader.varint()
    return found


def _read_counts(reader: ByteReader, device: str, find: Find) -> tuple[Window, ReferenceProfile]:
    flags = reader.varint()
    if flags >= _SHADOW << 1:
        raise MessageError("G03", f"compact window with the flags {flags:#x}")
    bundle, profile = find(reader.take(KNOWN_BYTES))
    spool = reader.take(8).hex()
    seq, behind, opened, lasted = (reader.varint() for _ in range(4))
    rows, flagged, fallback, near = (reader.varint() for _ in range(4))
    totals = [reader.varint() for _ in range(3)]
    errors = _read_names(reader) if flags & _ERRORS else {}
    probing = _read_names(reader) if flags & _PROBING else {}
    classes: tuple[int, ...] = ()
    if flags & _CLASSES:
        size = reader.varint()
        if not 0 < size <= _MOST_CLASSES:
            raise DamagedError("too many classes")
        classes = tuple(reader.varint() for _ in range(size))
    extra: Mapping[str, Any] = {}
    if flags & _EXTRA:
        extra = open_payload(reader.take(reader.varint()), "extra").rest()
    shadow = _read_shadow(reader, find) if flags & _SHADOW else None
    if fallback > rows:
        raise DamagedError("more rows of the rule than rows")
    coder = _Cells(BitReader(reader.rest()), profile, rows, fallback)
    cells = coder.read(flags, totals)
    if shadow:
        cells["shadow"] = coder.shadow(shadow, cells["scores"])
    window = Window(
        place=Place(device, spool, seq, seq - behind),
        bundle=bundle,
        edges=profile.edges_id,
        opened=to_seconds(to_text(opened / 1000)),
        closed=to_seconds(to_text((opened + lasted) / 1000)),
        rows=rows,
        flagged=flagged,
        fallback=fallback,
        errors=errors,
        reason=_REASONS[flags & 3],
        extra=extra,
        classes=classes,
        near=near,
        probing=probing,
        **cells,
    )
    return window, profile


class _Cells:
    """All histograms of a window, in one order for writing and reading."""

    def __init__(self, coder: Coder, profile: ReferenceProfile, rows: int, fallback: int) -> None:
        self._coder = coder
        self._counts = CountCoder(coder)
        self._profile = profile
        self._rows = rows
        self._scored = rows - fallback

    def write(self, window: Window) -> None:
        for item in self._profile.features:
            self._feature(item.counts.slots, window.features[item.name].slots)
        scores = self._known(self._profile.scores, window.scores, self._scored)
        if window.flagged_scores:
            self._flagged(scores, window.flagged_scores)
        for cells in (window.latency, window.memory, window.temperature):
            if cells:
                self._unknown(cells, sum(cells))
        if window.pairs:
            for pair in self._profile.pairs:
                self._known(pair.counts, window.pairs[pair.name], self._rows)
        if window.shadow:
            self.shadow(window.shadow, window.scores)

    def read(self, flags: int, totals: Sequence[int]) -> dict[str, Any]:
        found: dict[str, Any] = {"features": {}}
        for item in self._profile.features:
            slots = item.counts.slots
            below, *bins, above, missing = self._feature(slots, slots)
            found["features"][item.name] = FeatureCounts(tuple(bins), below, above, missing)
        none = (0,) * SCORE_BINS
        found["scores"] = self._known(self._profile.scores, none, self._scored)
        if flags & _FLAGGED:
            found["flagged_scores"] = self._flagged(found["scores"], none)
        for name, there, size, total in (
            ("latency", 1, LATENCY_BINS, totals[0]),
            ("memory", flags & _MEMORY, MEMORY_BINS, totals[1]),
            ("temperature", flags & _TEMPERATURE, TEMPERATURE_BINS, totals[2]),
        ):
            if there:
                found[name] = self._unknown((0,) * size, total)
        if flags & _PAIRS:
            found["pairs"] = {
                pair.name: self._known(pair.counts, pair.counts, self._rows)
                for pair in self._profile.pairs
            }
        return found

    def shadow(self, counts: ShadowCounts, live: Sequence[int]) -> ShadowCounts:
        """A shadow's histograms: its scores lie about as those of the model that answered."""
        scores = self._known(live, counts.scores, counts.rows)
        joint = [0] * COARSE_BINS**2
        for column in range(COARSE_BINS):
            total = sum(scores[column * COARSE : (column + 1) * COARSE])
            order = sorted(range(COARSE_BINS), key=lambda row: (abs(row - column), row))
            places = [row * COARSE_BINS + column for row in order]
            # most rows lie on the diagonal
            expected = [total, *(0,) * (COARSE_BINS - 1)]
            found = self._known(expected, [counts.joint[place] for place in places], total)
            for place, count in zip(places, found, strict=True):
                joint[place] = count
        latency = self._unknown(counts.latency, sum(counts.latency))
        return replace(counts, scores=scores, joint=tuple(joint), latency=latency)

    def _feature(self, reference: Sequence[int], counts: Sequence[int]) -> tuple[int, ...]:
        """Rare slots first, so that what is left for the bins is known."""
        order = [-1, 0, -2, *range(1, len(reference) - 2)]
        coded = self._known(
            [reference[place] for place in order], [counts[place] for place in order], self._rows
        )
        missing, below, above, *bins = coded
        return (below, *bins, above, missing)

    def _known(
        self, reference: Sequence[int], counts: Sequence[int], total: int
    ) -> tuple[int, ...]:
        """Counts that share out `total` about as the reference does; the last is what is left."""
        weights = [2 * count + 1 for count in reference]
        weight, left, found = sum(weights), total, []
        for own, value in zip(weights[:-1], counts[:-1], strict=True):
            expected = (2 * left * own + weight) // (2 * weight)
            found.append(self._counts.count(value, min(expected, left), left))
            left -= found[-1]
            weight -= own
        return (*found, left)

    def _unknown(self, counts: Sequence[int], total: int) -> tuple[int, ...]:
        """Counts of which only the sum is known: the ends of what is not empty, and between."""
        if total == 0:
            return (0,) * len(counts)
        places = [place for place, count in enumerate(counts) if count] or [0]
        first, last = self._coder.bits(places[0], 6), self._coder.bits(places[-1], 6)
        if not first <= last < len(counts):
            raise DamagedError("a histogram that is not one")
        even = (1,) * (last - first + 1)
        inner = self._known(even, counts[first : last + 1], total)
        return (*(0,) * first, *inner, *(0,) * (len(counts) - 1 - last))

    def _flagged(self, scores: Sequence[int], flagged: Sequence[int]) -> tuple[int, ...]:
        """Of each bin of scores all or nothing, but for the threshold's: where it is, and how many."""
        split = next((place for place, count in enumerate(flagged) if count), SCORE_BINS - 1)
        plain = tuple(flagged[split + 1 :]) == tuple(scores[split + 1 :])
        if self._coder.bits(int(plain), 1):
            split = self._coder.bits(split, 6)
            inside = self._counts.count(flagged[split], scores[split] // 2, scores[split])
            return (*(0,) * split, inside, *scores[split + 1 :])
        return tuple(
            self._counts.count(own, most // 2, most)
            for own, most in zip(flagged, scores, strict=True)
        )
