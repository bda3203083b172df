"""Values of --cfg-options."""

import pytest

from backbone.errors import UserError
from effvim.config.editing import parse_options


@pytest.mark.parametrize(
    'value',
    ['dict(a=1)', "[dict(type='Pad')]", "[dict(type='Pad',size=(3,4))]", "{'a':1}", "[[{'a':1}]]"],
)
def test_dicts_are_refused_not_taken_for_words(value):
    with pytest.raises(UserError, match='not dicts'):
        parse_options([f'key={value}'])


@pytest.mark.parametrize(
    ('text', 'value'),
    [('[(1,2),(3,4)]', [(1, 2), (3, 4)]), ('epoch_{}.pth', 'epoch_{}.pth'), ('1e-3', 1e-3)],
)
def test_other_values_stay(text, value):
    assert parse_options([f'key={text}']) == {'key': value}
