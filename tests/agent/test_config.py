"""agent.toml, row by row: what is read, and what is refused with its place named."""

from __future__ import annotations

from pathlib import Path

import pytest
from support_agent import agent_config, write_agent_config

from wherry_agent.config import Limits, load_config
from wherry_contract.address import BrokerAddress
from wherry_contract.errors import SetupError

LEAST = 'device = "shop-1"\nfleet = "test"\nfamily = "fraud"\n'


def read(folder: Path, text: str | bytes) -> object:
    path = folder / "agent.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_config(path)


IDENTITY = """
[identity]
key = "device.key"
certificate = "device.pem"
authority = "fleet-ca.pem"
enrol = "https://server.example/enrol"
"""


def test_the_least_that_must_be_said(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text(LEAST)
    config = load_config(tmp_path / "agent.toml")
    assert (config.device, config.broker, config.depot) == ("shop-1", None, "")
    assert config.state_dir == tmp_path / "state"
    assert config.trust == tmp_path / "trust.json"
    assert config.listen == "127.0.0.1:8600"
    assert config.limits == Limits()


def test_paths_lead_the_same_way_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The verifier and the probe are children that work in an empty folder."""
    agent_config(tmp_path, depot="https://depot.example")
    text = (tmp_path / "agent.toml").read_text()
    (tmp_path / "agent.toml").write_text(text + IDENTITY)
    monkeypatch.chdir(tmp_path.parent)
    config = load_config(Path(tmp_path.name) / "agent.toml")
    assert config.identity
    paths = (config.state_dir, config.trust, config.identity.key, config.identity.certificate)
    assert all(path.is_absolute() for path in (*paths, config.identity.authority))


def test_everything_that_can_be_said(tmp_path: Path) -> None:
    config = agent_config(
        tmp_path,
        broker="mqtts://me:p%40ss@broker.example:8884",
        depot="https://depot.example/a/",
        listen="unix:/run/wherry.sock",
        features=["AMOUNT", "NIGHTS"],
        labels={"site": "north 1"},
        window_rows=50,
        probe_seconds=2.5,
    )
    assert config.broker == BrokerAddress(
        "broker.example", 8884, tls=True, username="me", password="p@ss"
    )
    assert config.depot == "https://depot.example/a"
    assert config.listen == "unix:/run/wherry.sock"
    assert config.features == {"AMOUNT", "NIGHTS"}
    assert config.labels == {"site": "north 1"}
    assert (config.limits.window_rows, config.limits.probe_seconds) == (50, 2.5)


WRONG: list[tuple[str, str | bytes, str]] = [
    ("no TOML", "device = ", "H08"),
    ("no UTF-8", b"device = '\xff'", "H08"),
    ("too large", "#" * 70_000, "H08"),
    ("no device", LEAST.replace("device", "#"), "device"),
    ("a device that is no slug", LEAST.replace("shop-1", "Shop 1"), "device"),
    ("a device that climbs", LEAST.replace("shop-1", "../a"), "device"),
    ("a name that nobody knows", LEAST + "devise = 1", "devise"),
    ("such a name in a table", LEAST + "[limits]\nwindow_row = 5", "window_row"),
    ("such a name beside a url", LEAST + '[broker]\nurl = ""\nport = 1', "port"),
    ("such a name beside listen", LEAST + "[serving]\nlisten_on = 1", "listen_on"),
    ("no number", LEAST + '[limits]\nwindow_rows = "many"', "window_rows"),
    ("nothing", LEAST + "[limits]\nwindow_rows = 0", "window_rows"),
    ("less than one", LEAST + "[limits]\nwindow_rows = 0.5", "window_rows"),
    ("negative", LEAST + "[limits]\noutbox_days = -1", "outbox_days"),
    ("not finite", LEAST + "[limits]\noutbox_days = inf", "outbox_days"),
    ("too much", LEAST + "[limits]\nwindow_rows = 1e12", "window_rows"),
    ("a broker that is no url", LEAST + '[broker]\nurl = "somewhere"', "H12"),
    ("a broker on another protocol", LEAST + '[broker]\nurl = "http://h:1"', "H12"),
    ("a broker on port x", LEAST + '[broker]\nurl = "mqtt://h:x"', "H12"),
    ("a broker beyond the ports", LEAST + '[broker]\nurl = "mqtt://h:99999"', "H12"),
    ("a depot that is a path", LEAST + '[depot]\nurl = "/srv/depot"', "depot"),
    ("a depot on port x", LEAST + '[depot]\nurl = "http://h:x/"', "depot"),
    ("a label that is no word", LEAST + '[labels]\nsite = "a\\nb"', "site"),
    ("a label that is a number", LEAST + "[labels]\nsite = 1", "site"),
    ("a label with an odd name", LEAST + '[labels]\n"\\n" = "a"', "labels"),
    ("features that are no list", LEAST + '[application]\nfeatures = "A"', "features"),
]


@pytest.mark.parametrize(
    ("text", "named"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG]
)
def test_wrong(tmp_path: Path, text: str | bytes, named: str) -> None:
    with pytest.raises(SetupError, match=r"H08|H12") as caught:
        read(tmp_path, text)
    assert named in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="H02"):
        load_config(tmp_path / "agent.toml")


URLS = [
    ("mqtt://h", BrokerAddress("h", 1883)),
    ("mqtts://h", BrokerAddress("h", 8883, tls=True)),
    ("mqtt://[::1]:7", BrokerAddress("::1", 7)),
    ("mqtt://u@h", BrokerAddress("h", 1883, username="u")),
]


@pytest.mark.parametrize(("url", "wanted"), URLS, ids=[row[0] for row in URLS])
def test_broker_urls(url: str, wanted: BrokerAddress) -> None:
    assert BrokerAddress.from_url(url) == wanted


def test_written_and_read_again(tmp_path: Path) -> None:
    assert write_agent_config(tmp_path).name == "agent.toml"
    assert load_config(tmp_path / "agent.toml").fleet == "test"
