"""YOLO datasets: what is unusual in names, lines and splits."""

from pathlib import Path

import pytest

from tests.helpers.custom_data import (
    assert_refused,
    converted,
    draw_image,
    run,
    write_labels,
)


@pytest.mark.parametrize(
    'line', ['0 32 24 16 12', '0 .5 .5 20 12', '1 10 10 30 10 30 25 10 25', '0 640 .5 .1 .1']
)
def test_lines_in_pixels_are_named(line, yolo, capsys):
    yolo('0 .5 .5 .1 .1')
    with open('own/labels/train/a.txt', 'a') as file:
        file.write(line)
    assert_refused('convert own out', capsys, 'a.txt, line 2', 'pixels', 'between 0 and 1')


@pytest.mark.parametrize('line', ['0 0.95 0.5 0.2 0.25', '0 1.2 .5 .1 .1'])
def test_boxes_outside_name_file_and_line(line, yolo, capsys):
    yolo(line)
    assert_refused('convert own out', capsys, 'a.txt, line 1', 'a.jpg')


def test_a_label_file_of_another_encoding_is_one_defect(yolo, own, capsys):
    yolo('0 .5 .5 .1 .1')
    for i, content in enumerate((b'0 .5 .5 .1 .1\n# M\xe4rz\n', b'9 .5 .5 .1 .1\n')):
        draw_image(own / f'images/train/{i}.jpg', seed=i + 1)
        (own / f'labels/train/{i}.txt').write_bytes(content)
    assert_refused('convert own out', capsys, '2 annotations', '0.txt is not text in UTF-8')
    flags = '--skip-invalid --max-invalid 0.7'
    assert converted('own', flags)['train'].keys() == {'a.jpg'}


def test_names_of_another_encoding_are_named(own, capsys):
    draw_image(own / 'a.jpg')
    write_labels(own / 'a.txt', '0 .5 .5 .1 .1')
    (own / 'classes.txt').write_bytes('Bär\n'.encode('latin-1'))
    assert_refused('convert own out', capsys, 'own/classes.txt is not text in UTF-8')


def test_names_from_one_and_with_gaps(yolo, capsys):
    yolo('4 .5 .5 .25 .25', '{1: cat, 2: dog, 4: cow}')
    assert converted('own')['train']['a.jpg'][0][0] == 'cow'
    assert 'no name for 0, 3' in capsys.readouterr().err
    yolo('3 .5 .5 .25 .25', '{1: cat, 2: dog, 4: cow}')
    assert_refused('convert own out', capsys, 'a.txt, line 1', 'class 3', 'are for 1, 2, 4')


def test_numbers_as_names(yolo, capsys):
    yolo('1 .5 .5 .25 .25', '[7, 8]')
    assert converted('own')['train']['a.jpg'][0][0] == '8'
    yolo('1 .5 .5 .25 .25', "{'0': ' cat ', '1': dog}", nc=3)
    assert converted('own')['train']['a.jpg'][0][0] == 'dog'
    assert 'nc is 3' in capsys.readouterr().err
    for names in ('[yes, no]', '[1.0]', '[]', 'cat', '{a: cat}'):
        yolo('0 .5 .5 .25 .25', names)
        assert_refused('convert own out', capsys, 'data.yaml', 'names')


def test_val_that_equals_train(yolo, own, capsys):
    yolo('0 .5 .5 .25 .25', val='images/train')
    for stem in 'bc':
        draw_image(own / f'images/train/{stem}.jpg', seed=ord(stem))
        write_labels(own / f'labels/train/{stem}.txt', '0 .5 .5 .1 .1')
    assert converted('own').keys() == {'train'}
    assert 'val holds the same images as train' in capsys.readouterr().err
    assert run('split own out --val 0.34') == 0
    assert 'val: 1 images' in capsys.readouterr().out


def test_copies_of_a_line_count_once(yolo, capsys):
    yolo('0 .5 .5 .25 .25\n0 .5 .5 .25 .25\n1 .5 .5 .25 .25')
    assert [name for name, *_ in converted('own')['train']['a.jpg']] == ['cat', 'dog']
    assert '1 annotations are copies' in capsys.readouterr().err


def test_capital_folders(own):
    draw_image(own / 'Images/Train/a.jpg')
    write_labels(own / 'Labels/Train/a.txt', '0 .5 .5 .25 .25')
    write_labels(own / 'data.yaml', 'train: Images/Train', 'names: [cat]')
    assert converted('own')['train']['a.jpg'] == [('cat', 24, 18, 16, 12)]


def test_where_labels_were_looked_for(own, capsys):
    draw_image(own / 'images/a.jpg')
    write_labels(own / 'lines/a.txt', '0 .5 .5 .25 .25')
    write_labels(own / 'data.yaml', 'train: images', 'names: [cat]')
    assert_refused('convert own out', capsys, 'a.txt', 'own/images', 'labels/')


def test_lists_of_one_folder_share_its_labels(own):
    for stem in 'ab':
        draw_image(own / f'images/{stem}.jpg', seed=ord(stem))
        write_labels(own / f'labels/{stem}.txt', '0 .5 .5 .25 .25')
    write_labels(own / 'train.txt', './images/a.jpg')
    write_labels(own / 'val.txt', '/home/me/set/images/b.jpg')
    write_labels(own / 'data.yaml', 'train: train.txt', 'val: val.txt', 'names: [cat]')
    found = converted('own')
    assert found['train'].keys() == {'a.jpg'} and found['val'].keys() == {'b.jpg'}


def test_other_text_files_next_to_images_are_no_labels(own):
    draw_image(own / 'a.jpg')
    write_labels(own / 'a.txt', '0 .5 .5 .25 .25')
    write_labels(own / 'classes.txt', 'cat')
    write_labels(own / 'notes.txt', 'taken on Monday')
    assert run('stats own') == 0
    write_labels(own / 'lost.txt', '0 .5 .5 .25 .25')
    assert run('stats own') == 2 and not Path('own_defects.txt').exists()
