"""The examples in docstrings run and print what they say."""

import doctest
import importlib
import pkgutil

import pytest
import torch

import backbone
import effvim
from tests.helpers.paths import ROOT


def modules_with_examples():
    """Names of the modules whose source has a doctest prompt."""
    for package in (backbone, effvim):
        for module in pkgutil.walk_packages(package.__path__, f'{package.__name__}.'):
            path = ROOT / f'{module.name.replace(".", "/")}'
            path = path / '__init__.py' if module.ispkg else path.with_suffix('.py')
            if '>>> ' in path.read_text():
                yield module.name


@pytest.mark.parametrize('name', modules_with_examples())
def test_examples(name):
    module = importlib.import_module(name)
    results = doctest.testmod(module, extraglobs={'torch': torch})
    assert results.attempted and not results.failed


def test_the_network_has_examples():
    assert 'backbone.efficientvim' in modules_with_examples()
