"""What protects a service and its clients: certificates of both, their dates, and a clock that is wrong."""

from __future__ import annotations

import threading

import psutil
import pytest

from physgym.errors import ConfigError, SimulatorError
from physgym.machines.address import Address
from physgym.simulators.client import LentSimulator, ServiceClient, described_service
from physgym.simulators.pool import PoolSettings
from physgym.simulators.service import SimulatorService
from physgym.transport import certificates
from tests.simulators.test_service import soon
from tests.support.machines import TOKEN
from tests.support.simulators import lending, program, reaching
from tests.support.tls import of_days


def signed(folder, begins=-1.0, ends=1.0):
    """A certificate for localhost, by an authority of its own: the folder has both, and the key."""
    folder.mkdir()
    return of_days(folder, begins, ends, name="localhost")


def given(folder):
    """What a client has that gives the certificate of a folder."""
    return {"chain": str(folder / "chain"), "key": str(folder / "key")}


def test_clients_need_a_certificate_where_the_service_asks_for_one(tmp_path):
    signed(tmp_path / "client")
    signed(tmp_path / "other")
    with lending(tmp_path, plain=False, clients=tmp_path / "client" / "authority") as service:
        with ServiceClient(reaching(service, tmp_path, **given(tmp_path / "client"))) as client:
            assert client.list()["most"] == 8
        lent = LentSimulator([reaching(service, tmp_path, **given(tmp_path / "client"))], 20)
        assert lent.running
        lent.end()
        for more in ({}, given(tmp_path / "other")):
            with pytest.raises(SimulatorError, match="Give one with --certificate and --key that its --clients file"):
                ServiceClient(reaching(service, tmp_path, **more))
        assert len(soon(lambda: [line for line in service.said if "handshake of TLS failed" in line][1:])) == 1
        with pytest.raises(ConfigError, match="certificates for TLS cannot be used"):
            ServiceClient(reaching(service, tmp_path, chain=str(tmp_path / "none"), key=str(tmp_path / "none")))


@pytest.mark.parametrize("days", [(-3, -0.5), (0.5, 3)])
def test_a_client_whose_certificate_is_not_valid_now_learns_it(tmp_path, days):
    signed(tmp_path / "client", *days)
    with lending(tmp_path, plain=False, clients=tmp_path / "client" / "authority") as service:
        with pytest.raises(SimulatorError, match=r"does not accept .* of this one.*clocks of both machines"):
            ServiceClient(reaching(service, tmp_path, **given(tmp_path / "client")))
        assert "clocks of both machines" in soon(lambda: service.said)[0]


@pytest.mark.parametrize(("days", "said"), [((-2, -1), "has expired"), ((1, 2), "not yet valid")])
def test_a_service_whose_certificate_is_not_valid_now_does_not_begin(tmp_path, days, said):
    made, threads = signed(tmp_path / "service", *days), threading.active_count()
    descriptors = psutil.Process().num_fds()
    with pytest.raises(ConfigError, match=f"{said}.*set this machine's clock"):
        SimulatorService(PoolSettings(program()), Address("127.0.0.1", 0), TOKEN, made)
    assert (threading.active_count(), psutil.Process().num_fds()) == (threads, descriptors)


@pytest.mark.parametrize(("days", "said"), [((-3, -0.5), "has expired"), ((0.5, 3), "not yet valid")])
def test_a_client_whose_clock_is_wrong_by_a_day_is_told_so_and_a_fingerprint_needs_no_clock(
    tmp_path, monkeypatch, days, said
):
    """A client whose clock is a day fast sees one that ends today as expired: as here, where the dates are off."""
    monkeypatch.setattr(certificates, "_check_dates", lambda *_: None)  # the clock of the service is right
    made = signed(tmp_path / "service", *days)
    with lending(tmp_path, certificate=made) as service:
        place = ("localhost", service.address.port)
        trusting = {"plain": False, "authorities": str(tmp_path / "service" / "authority"), "address": place}
        with pytest.raises(SimulatorError, match=rf"{said}.* and the clocks of both machines"):
            ServiceClient(reaching(service, **trusting))
        assert "the clocks of both machines" in soon(lambda: service.said)[0]
        with ServiceClient(reaching(service, plain=False, fingerprint=made.fingerprint)) as client:
            assert client.request().port


def test_a_certificate_of_an_authority_is_accepted_for_its_own_name(tmp_path):
    made = signed(tmp_path / "service")
    with lending(tmp_path, certificate=made) as service:
        trusting = {"plain": False, "authorities": str(tmp_path / "service" / "authority")}
        with ServiceClient(reaching(service, **trusting, address=("localhost", service.address.port))) as client:
            assert client.list()["simulators"] == []
        with pytest.raises(SimulatorError, match=r"certificate is not accepted.*127\.0\.0\.1.* for which name it is"):
            ServiceClient(reaching(service, **trusting))


def test_a_client_without_the_fingerprint_of_our_own_certificate_is_told_where_to_find_it(tmp_path):
    with (
        lending(tmp_path, plain=False) as service,
        pytest.raises(SimulatorError, match=r"self-signed.*\. Give the --fingerprint that the other end prints"),
    ):
        ServiceClient(reaching(service, plain=False))


def test_files_of_a_description_are_those_of_the_connection(tmp_path):
    made, token = signed(tmp_path / "service"), tmp_path / "token"
    signed(tmp_path / "client")
    token.write_text(TOKEN.hex())
    token.chmod(0o600)
    with lending(tmp_path, certificate=made, clients=tmp_path / "client" / "authority") as service:
        files = {"authorities": tmp_path / "service" / "authority", "certificate": tmp_path / "client" / "chain"}
        description = {"address": f"localhost:{service.address.port}", "token_file": token, **files}
        with ServiceClient(described_service({**description, "key": tmp_path / "client" / "key"})) as client:
            assert client.request().port
