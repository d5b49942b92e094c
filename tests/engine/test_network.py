"""The interface that leads to another machine."""

import pytest

from vipo.engine import network
from vipo.registry import ConfigError


def test_this_machine_is_reached_over_its_loopback():
    assert network.interface_to('127.0.0.1').startswith('lo')


def test_nothing_is_chosen_where_it_is_not_needed(monkeypatch):
    monkeypatch.setenv('GLOO_SOCKET_IFNAME', '')  # so that it is put back
    monkeypatch.delenv('GLOO_SOCKET_IFNAME')
    monkeypatch.setenv('MASTER_ADDR', '127.0.0.1')
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '2')
    network.choose_interface()
    assert 'GLOO_SOCKET_IFNAME' not in network.os.environ
    monkeypatch.setenv('WORLD_SIZE', '4')
    network.choose_interface()
    assert network.os.environ['GLOO_SOCKET_IFNAME'].startswith('lo')
    monkeypatch.setenv('GLOO_SOCKET_IFNAME', 'mine')
    network.choose_interface()
    assert network.os.environ['GLOO_SOCKET_IFNAME'] == 'mine'


def test_an_address_that_does_not_exist():
    with pytest.raises(ConfigError, match=r'MASTER_ADDR=nowhere\.invalid cannot be reached'):
        network.interface_to('nowhere.invalid')
