"""Tests of own data work in a directory of their own."""

import pytest


@pytest.fixture
def own(tmp_path, monkeypatch):
    """An empty directory ./own for a dataset."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'own').mkdir()
    return tmp_path / 'own'
