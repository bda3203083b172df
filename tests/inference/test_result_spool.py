"""Results on disk are the same JSON as a list in memory would be."""

import json
import random

import pytest

from backbone import UserError
from effvim.inference.result_spool import Places, ResultSpool, remove, write_sorted


def test_results_of_several_processes_are_merged_in_order(tmp_path):
    rng = random.Random(0)
    images = list(range(50))
    rng.shuffle(images)
    results = {i: [{'image_id': 1000 - i, 'score': rng.random()}] * (i % 3) for i in images}
    spools = [ResultSpool(tmp_path) for _ in range(3)]
    for i in images:
        spools[i % 3].add('bbox', i, results[i])
        spools[i % 3].add('images', i, [{'id': i, 'name': 'ü'}])
    for spool in spools:
        spool.close()
    every = [spool.places for spool in spools]
    write_sorted(tmp_path / 'bbox.json', every, 'bbox', lambda i: 1000 - i)
    write_sorted(tmp_path / 'images.json', every, 'images', str, ('{"images": [', ']}\n'))
    write_sorted(tmp_path / 'none.json', every, 'segm', int)
    expected = [one for i in sorted(results, reverse=True) for one in results[i]]
    assert (tmp_path / 'bbox.json').read_text() == json.dumps(expected) + '\n'
    assert json.loads((tmp_path / 'images.json').read_text()) == {
        'images': [{'id': i, 'name': 'ü'} for i in sorted(images, key=str)]
    }
    assert (tmp_path / 'none.json').read_text() == '[]\n'
    for places in every:
        remove(places)
    assert {path.name for path in tmp_path.iterdir()} == {'bbox.json', 'images.json', 'none.json'}


def test_a_directory_that_is_not_shared(tmp_path):
    spool = ResultSpool(tmp_path)
    spool.add('bbox', 0, [1])
    spool.close()
    elsewhere = Places(tmp_path / 'elsewhere', spool.places.numbers)
    with pytest.raises(UserError, match='that all nodes share with --out'):
        write_sorted(tmp_path / 'bbox.json', [spool.places, elsewhere], 'bbox', int)
    assert not (tmp_path / 'bbox.json').exists()
