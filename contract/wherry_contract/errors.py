"""What can go wrong, in one tree that fits on a screen.

Every failure that a user, an operator or a monitoring service can see carries a
code from `CODES`. A code never changes its meaning; its title says what happened,
the detail of the raised error says why, and its cure says what to do next. The same
codes travel in events from devices, so that a fleet can be searched by them.

    WherryError                exit 3: could not do it
    ├── BundleError      B..   the file is not a usable bundle
    ├── ManifestError    M..   the bundle's description is wrong or too new
    ├── InputError       C..   rows do not fit the input contract
    ├── TrustError       T..   exit 1: not signed by whom it should be
    ├── IdentityError    I..   exit 1: who a device is could not be shown
    ├── MessageError     G..   an MQTT payload is malformed, foreign or replayed
    ├── UpdateError      U..   an update could not go on, on the device
    ├── ProbeError       P..   exit 1: the model does not do here what it did there
    ├── ServingError     S..   a request at the serving port cannot be answered
    ├── LinkError        L..   broker or depot cannot be reached or used
    ├── StoreError       D..   disk, state and outbox
    ├── ConvertError     K..   a model cannot be converted, or not without changes
    ├── GateError        Q..   exit 1: a gate said no
    ├── RolloutError     R..   the fleet's server cannot do what was asked
    └── SetupError       H..   this machine lacks something, or a setting is wrong
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar


@dataclass(frozen=True)
class ErrorCode:
    """One row of the catalogue: what a code means and what to do about it."""

    code: str
    title: str
    cure: str


_ROWS: tuple[tuple[str, str, str], ...] = (
    # Bundle: the file
    ("B01", "the bundle is truncated", "copy or download it again"),
    ("B02", "the bundle is larger than the limit", "check that this is the right file"),
    ("B03", "this is not a bundle", "a bundle is the tar made by `wherry pack`"),
    ("B04", "a blob does not match its digest", "the file changed after packing; get it again"),
    ("B05", "the bundle holds a path that is not allowed", "do not use it; ask who made it"),
    ("B06", "the bundle holds an entry that is no plain file", "do not use it; ask who made it"),
    (
        "B07",
        "the bundle holds something that nothing refers to",
        "pack it again with `wherry pack`",
    ),
    ("B08", "the bundle lacks a part that its manifest names", "copy or download it again"),
    ("B09", "the bundle's OCI manifest is not one of ours", "pack it again with `wherry pack`"),
    ("B10", "the bundle names the same part twice", "do not use it; ask who made it"),
    (
        "B11",
        "the delta does not make what it should",
        "nothing to do; the whole is fetched instead",
    ),
    # Manifest: wherry.json and its neighbours
    ("M01", "the document is not valid JSON", "pack it again with `wherry pack`"),
    ("M02", "the document is larger or deeper than the limit", "pack it again; do not edit it"),
    ("M03", "the document comes from a newer Wherry", "upgrade this Wherry, then try again"),
    ("M04", "a field is missing or has the wrong form", "compare with contract/SPEC-bundle.md"),
    ("M05", "an operator is outside the allow-list", "convert the model with `wherry convert`"),
    ("M06", "the model asks for another runtime", "install a runtime in the range it names"),
    ("M07", "the model is not made for this board", "build it for this board"),
    ("M08", "parts of the bundle contradict each other", "pack it again with `wherry pack`"),
    # Input contract: rows of raw values
    (
        "C01",
        "a feature is not in the input contract",
        "send the features that the model's metadata lists",
    ),
    (
        "C02",
        "a required feature is missing",
        "send it, or allow missing values in the input contract",
    ),
    ("C03", "a value has the wrong type", "send numbers as numbers and categories as strings"),
    ("C04", "a number is not finite", "send null for a missing value"),
    (
        "C05",
        "a category is not in the input contract",
        "send a listed one, or allow unseen categories",
    ),
    (
        "C06",
        "the rows have the wrong shape",
        "send one value for each feature, in the contract's order",
    ),
    # Trust
    ("T01", "the signature does not verify", "do not use it; get it again from its source"),
    ("T02", "it is not signed by a trusted key", "sign it with a key that this fleet trusts"),
    ("T03", "it is signed for somebody else", "publish it to the device that it names"),
    ("T04", "it is older than what was already accepted", "sign a new one; sequences only grow"),
    ("T05", "it has expired", "sign a new one"),
    (
        "T06",
        "it belongs to another model family",
        "use a bundle of the family that the device is pinned to",
    ),
    ("T07", "its release counter is below the floor", "publish a newer release"),
    ("T08", "it needs a newer agent to be understood", "upgrade the agent, then try again"),
    ("T09", "the signed document is malformed", "sign it again with this Wherry"),
    ("T10", "the key cannot be used", "check its file and its passphrase"),
    (
        "T11",
        "the list of released bundles is stale",
        "let the host sign it anew, and check the device's clock; the running model goes on",
    ),
    ("T12", "the bundle is not listed as released", "publish it, or push one that is listed"),
    (
        "T13",
        "the list of released bundles cannot be trusted",
        "check the depot and who can write to it",
    ),
    (
        "T14",
        "it is dated or numbered too far ahead",
        "check the clocks of the device and of who signed; was the key stolen?",
    ),
    # Identity: certificates, claim codes
    ("I01", "this is no claim code", "compare it with what `wherry device claim` printed"),
    (
        "I02",
        "the claim code is unknown, used or expired",
        "ask for another: `wherry device claim`",
    ),
    (
        "I03",
        "the server is not the one that the claim code names",
        "nothing was sent; check the address, and for a proxy that opens TLS",
    ),
    (
        "I04",
        "the device's identity was revoked",
        "if the device is yours, enrol it again with a new claim code",
    ),
    ("I05", "the proof of possession is wrong", "enrol the device again with a new claim code"),
    (
        "I06",
        "the identity's files are missing or do not belong together",
        "enrol the device again with a new claim code",
    ),
    (
        "I07",
        "a certificate of this fleet is needed here",
        "enrol the device: `wherry-agent enroll`",
    ),
    ("I08", "the certificate request is malformed", "make it with `wherry-agent enroll`"),
    # Messages
    ("G01", "the message is malformed", "compare with contract/SPEC-mqtt.md"),
    ("G02", "the message is larger than the limit", "compare with contract/SPEC-mqtt.md"),
    ("G03", "the message's schema is unknown", "upgrade the side that reads it"),
    ("G04", "the message names another device than its topic", "check the broker's access list"),
    ("G05", "the message was seen before", "nothing to do: it was counted once"),
    ("G06", "the topic is not one of ours", "compare with contract/SPEC-mqtt.md"),
    ("G07", "two agents use one device id", "give each device its own id and state folder"),
    (
        "G08",
        "the message is about a bundle that is not known here",
        "add that bundle to the depot, or let the device send JSON",
    ),
    # Update on the device
    ("U01", "there is not enough disk for the update", "free the space that the detail names"),
    ("U02", "a newer assignment replaced this one", "nothing to do"),
    ("U03", "the update was given up after too many retries", "check the depot, then push again"),
    ("U04", "the update moved in circles and was stopped", "report it with the device's events"),
    (
        "U05",
        "the new model kept crashing and was taken back",
        "look at the device's log; fix the model",
    ),
    (
        "U06",
        "the new model failed its soak and was taken back",
        "look at the gate that the detail names",
    ),
    (
        "U07",
        "the application does not supply a feature of this model",
        "update the application first",
    ),
    ("U08", "no model is usable; the fallback rule answers", "push a good bundle"),
    (
        "U09",
        "this bundle failed here before in the same rollout",
        "push a new rollout to try it again",
    ),
    (
        "U10",
        "the soak ended undecided: too little traffic",
        "wait for traffic, or push a shorter soak",
    ),
    (
        "U11",
        "the saved update state is unknown and was rolled back",
        "upgrade the agent, then push again",
    ),
    ("U12", "the assignment's mode is not supported by this agent", "push with mode live"),
    (
        "U13",
        "the update has used up its bytes or its time",
        "check the network and what stands in between, then push again",
    ),
    (
        "U14",
        "there is no usable delta, and the order forbids the whole",
        "publish a delta, or push with another policy",
    ),
    (
        "U15",
        "the new model failed rows of live traffic as a shadow",
        "look at the reason that the detail names; fix the model, then push again",
    ),
    (
        "U16",
        "the shadow was switched off: it went over its budget, or cannot be compared",
        "look at the detail; push live, or allow more in agent.toml ([limits] shadow_...)",
    ),
    # Probe
    ("P01", "golden vectors disagree", "do not ship this bundle to this board; check the runtime"),
    ("P02", "the model crashed the probe", "check the runtime and the board's CPU"),
    ("P03", "the probe took too long", "use a smaller model or raise probe_seconds"),
    ("P04", "the runtime cannot load the model", "convert the model with `wherry convert`"),
    ("P05", "the probe needed more memory than allowed", "use a smaller model"),
    # Serving port
    ("S01", "the request is not valid HTTP", "speak HTTP/1.1"),
    ("S02", "the request is not a valid inference request", "see the Open Inference Protocol v2"),
    ("S03", "the request is larger than the limit", "send fewer rows at a time"),
    ("S04", "there is no such model or page", "ask /v2 for what is served"),
    ("S05", "no model is ready", "wait until /v2/health/ready answers 200"),
    ("S06", "the request took too long to arrive", "send it in one piece"),
    ("S07", "too many connections", "reuse connections"),
    ("S08", "this method is not allowed here", "see the Open Inference Protocol v2"),
    # L codes: broker and depot
    ("L01", "the broker cannot be reached", "nothing is lost; check the address and the network"),
    ("L02", "the broker refused the connection", "check the credentials"),
    ("L03", "the broker grants subscriptions but does not deliver", "use another broker"),
    ("L04", "the depot cannot be reached", "check the address and the network"),
    ("L05", "the depot answered with an error", "check that the bundle was pushed"),
    (
        "L06",
        "the depot sent something else than was asked for",
        "check for a proxy or portal in between",
    ),
    ("L07", "the server answered with an error", "see the server's log"),
    ("L08", "the server cannot be reached", "check that `wherry serve` runs there"),
    (
        "L09",
        "the other side is not a server of this fleet",
        "nothing was sent or lost; check the address, and for a proxy that opens TLS",
    ),
    (
        "L10",
        "the server refused this device's certificate",
        "an expired one is renewed by itself; `wherry device list` shows a revoked one",
    ),
    (
        "L11",
        "a certificate is not valid at this hour",
        "check the clock; the agent asks the server for the time",
    ),
    (
        "L12",
        "the device has not answered yet",
        "it is asked again until the question expires; look again: `wherry device answers`",
    ),
    (
        "L13",
        "the device's own identity cannot be used",
        "enrol the device again: `wherry-agent enroll`; the running model goes on",
    ),
    ("L14", "a hook did not take what it was told", "it is told again by the next check"),
    # Disk and state
    ("D01", "the disk is full", "free some space; the running model goes on"),
    (
        "D02",
        "a state file was damaged and set aside",
        "nothing to do; keep the set-aside file for analysis",
    ),
    ("D03", "another agent uses this state folder", "stop it, or choose another folder"),
    (
        "D04",
        "the outbox was damaged and set aside",
        "its unsent windows are lost; keep the file for analysis",
    ),
    ("D05", "telemetry was dropped because the outbox was full", "connect the device more often"),
    ("D06", "the disk cannot be read or written", "check the medium and the folder's owner"),
    ("D07", "a helper process could not do its work", "free some memory; it is tried again"),
    (
        "D08",
        "the fleet's database cannot be reached",
        "start it, or mend the way to it; devices keep what was not acknowledged",
    ),
    # Conversion
    (
        "K01",
        "this kind of model cannot be converted",
        "see docs/cli.md, `wherry convert`, for what can",
    ),
    ("K02", "this part of the model converts wrongly", "change it as the detail says"),
    ("K03", "integer quantization does nothing for trees", "leave [quantize] out for this model"),
    (
        "K04",
        "the source model cannot be read",
        "save it with skops or in the framework's own format",
    ),
    (
        "K05",
        "the source model asks for types that are not trusted",
        "list them under [source] trusted, if they are yours",
    ),
    ("K06", "the converter is not installed", "install the extra that the detail names"),
    ("K07", "the model and the data do not fit together", "check the features in the project file"),
    # Gates
    ("Q01", "decisions changed", "see the report; raise the budget only on purpose"),
    ("Q02", "the rollout was stopped", "see `wherry rollout status`"),
    ("Q03", "the model drifted", "see `wherry monitor`"),
    ("Q04", "the bundles differ", "see the lines above"),
    (
        "Q05",
        "a runtime version that the bundle claims does not score as this one",
        "do not ship it to boards with that version",
    ),
    ("Q06", "a target board cannot run it", "build it as the detail says, or drop the board"),
    ("Q07", "a hook failed", "see the lines above; the next check tells it again"),
    # Rollout and server
    ("R01", "there is no such rollout", "see `wherry rollout list`"),
    ("R02", "no device matches", "see `wherry device list`"),
    ("R03", "another rollout is still running", "wait for it, or abort it"),
    ("R04", "there is no such bundle in the depot", "push the file"),
    ("R05", "the server does not know this token", "use the token that `wherry serve` wrote"),
    (
        "R06",
        "the request to the server is malformed",
        "use the same version of wherry on both sides",
    ),
    ("R07", "there is no such device", "see `wherry device list`"),
    ("R08", "the device is enrolled already", "choose another id, or say --again for new papers"),
    ("R09", "the rollout has ended", "push the bundle that the devices should run"),
    ("R10", "another server uses this data folder", "stop it, or choose another with --data"),
    (
        "R11",
        "the device has too many questions open",
        "wait for the answers, or until they expire: `wherry device answers`",
    ),
    ("R12", "there is no such question", "see `wherry device answers`"),
    ("R13", "there is no such group", "see `wherry group list`"),
    (
        "R14",
        "the rollout has moved on meanwhile",
        "look again with `wherry rollout status`, then say it again",
    ),
    ("R15", "there is nothing to go back to", "push the bundle that the devices should run"),
    # Set-up
    ("H01", "the project file is wrong", "compare with docs/project.md"),
    ("H02", "a file cannot be read", "check the path"),
    ("H03", "a file cannot be written", "check the path and its owner"),
    ("H04", "no broker is installed", "install the extra `host`, or apt install mosquitto"),
    ("H05", "a program that was started ended at once", "see the log that the detail names"),
    ("H06", "an extra is not installed", "install the extra that the detail names"),
    ("H07", "the server is not running", "start it with `wherry serve`"),
    ("H08", "the configuration is wrong", "compare with docs/agent.md"),
    ("H09", "the answer was no: not confirmed", "say --yes in scripts"),
    ("H10", "the data cannot be read", "check the file and the columns that the project names"),
    ("H11", "the address is already in use", "choose another port with --port"),
    ("H12", "this is no broker's address", "write it like mqtt://host:1883"),
    ("H13", "the project's own metric fails", "mend the function that [metric] names"),
    ("H14", "the board cannot be emulated here", "see `wherry board doctor`"),
    (
        "H15",
        "the board's environment cannot be made",
        "check the network and the disk, then try again; nothing half-made is used",
    ),
    (
        "H16",
        "the board cannot be flashed",
        "mend what the detail says, then run it again; nothing half-made is in use",
    ),
    ("H17", "the provisioning file is wrong", "mend the rows that are listed; nothing was written"),
)

CODES: Mapping[str, ErrorCode] = MappingProxyType({row[0]: ErrorCode(*row) for row in _ROWS})


class WherryError(Exception):
    """The root: a coded error with a detail (why, here) and a cure (what to do).

    Args:
        code: a key of `CODES`.
        detail: what exactly was seen; never a secret, never a raw input value.
        cure: replaces the code's own cure where more is known.
        title: replaces the code's own title where the same refusal has a plainer name, as for
            a name that was mistyped; the code stays what scripts and fleets look for.
    """

    exit_code: ClassVar[int] = 3

    def __init__(self, code: str, detail: str = "", *, cure: str = "", title: str = "") -> None:
        entry = CODES[code]
        self.code = code
        self.title = title or entry.title
        self.detail = detail
        self.cure = cure or entry.cure
        super().__init__(f"{code}: {self.title}" + (f": {detail}" if detail else ""))

    def render(self) -> str:
        """The error as the command line and the log show it, with its cure."""
        head = f"error[{self.code}]: {self.title}"
        body = f"\n  why:  {self.detail}" if self.detail else ""
        return f"{head}{body}\n  next: {self.cure}"


class BundleError(WherryError):
    """The file is not a usable bundle."""


class ManifestError(WherryError):
    """The bundle's description is wrong, or from the future."""


class InputError(WherryError):
    """Rows do not fit the input contract."""


class TrustError(WherryError):
    """Not signed by whom it should be, for whom it should be, or not now."""

    exit_code = 1


class IdentityError(WherryError):
    """Who a device is could not be shown."""

    exit_code = 1


class MessageError(WherryError):
    """An MQTT payload is malformed, foreign or replayed."""


class UpdateError(WherryError):
    """An update could not go on, on the device."""


class ProbeError(WherryError):
    """The model does not do here what it did where it was made."""

    exit_code = 1


class ServingError(WherryError):
    """A request at the serving port cannot be answered."""


class LinkError(WherryError):
    """Broker or depot cannot be reached or used."""


class StoreError(WherryError):
    """Disk, state or outbox."""


class ConvertError(WherryError):
    """A model cannot be converted, or not without changing it."""


class GateError(WherryError):
    """A gate said no."""

    exit_code = 1


class RolloutError(WherryError):
    """The fleet's server cannot do what was asked."""


class SetupError(WherryError):
    """This machine lacks something, or a setting is wrong."""


_LEAVES: Mapping[str, type[WherryError]] = MappingProxyType(
    {
        "B": BundleError,
        "M": ManifestError,
        "C": InputError,
        "T": TrustError,
        "I": IdentityError,
        "G": MessageError,
        "U": UpdateError,
        "P": ProbeError,
        "S": ServingError,
        "L": LinkError,
        "D": StoreError,
        "K": ConvertError,
        "Q": GateError,
        "R": RolloutError,
        "H": SetupError,
    }
)


def coded_error(code: str, detail: str = "") -> WherryError:
    """The error that a code stands for, as when it comes from another process.

    Raises:
        KeyError: nobody knows the code.
    """
    return _LEAVES[code[:1]](code, detail)
