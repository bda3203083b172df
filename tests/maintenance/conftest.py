"""The generated tables."""

import pytest

from maintenance import tables


@pytest.fixture(scope='module')
def rows():
    """Cells of the generated tables by their first cell."""
    cells_by_name = {}
    for line in tables.all_models():
        if line.startswith('|'):
            name, *cells = [cell.strip() for cell in line.strip('|').split(' | ')]
            cells_by_name.setdefault(name.strip('`'), []).append(cells)
    return cells_by_name
