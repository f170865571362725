"""What the tests of pods share."""

import pytest
from pods.standins import Tools, enter, make_repository


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A clean repository whose commit is pushed; `pod` launches from it."""
    made = make_repository(tmp_path)
    enter(made, monkeypatch)
    return made


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """No outside tool yet; `add` makes them."""
    return Tools(tmp_path / 'tools', monkeypatch)
