"""All defects of a dataset in one run: counted by kind, listed in a file, or skipped."""

from pathlib import Path

from tests.helpers.custom_data import (
    assert_refused,
    converted,
    draw_image,
    run,
    write_coco,
    write_labels,
)


def test_one_run_names_all(damaged, capsys):
    assert_refused(
        *('convert own out', capsys, '5 defects', '2 images cannot be decoded', '00.jpg', '01.jpg'),
        *('2 annotations cannot be read', '02.txt, line 2', '03.txt, line 1', '1 boxes are wrong'),
        *('complete list: own_defects.txt', '--skip-invalid'),
    )
    lines = Path('own_defects.txt').read_text().splitlines()
    assert len(lines) == 5 and all('\t' in line for line in lines)


def test_examples_are_few_and_the_list_is_complete(damaged, capsys):
    for i in range(4, 16):
        write_labels(damaged / f'labels/train/{i:02}.txt', 'x')
    capsys.readouterr()
    assert run('convert own out') == 2
    err = capsys.readouterr().err
    assert '14 annotations cannot be read' in err and len(err) < 2500
    assert len(Path('own_defects.txt').read_text().splitlines()) == 17


def test_one_defect_is_one_message(own, capsys):
    draw_image(own / 'images/a.jpg')
    write_labels(own / 'labels/a.txt', '0 .5 .5 .25')
    write_labels(own / 'data.yaml', 'train: images', 'names: [cat]')
    assert_refused('convert own out', capsys, 'a.txt, line 1: 4 numbers')
    assert not list(Path().glob('*_defects.txt'))


def test_invalid_images_are_skipped_as_a_whole(damaged, capsys):
    """Images 02 and 03 have valid objects as well, but the others would become background."""
    found = converted('own', '--skip-invalid --max-invalid 0.25')['train']
    assert found.keys() == {f'{i:02}.jpg' for i in range(4, 20)}
    err = capsys.readouterr().err
    assert 'skipped 4 images' in err and '2 images cannot be decoded' in err
    assert 'own_defects.txt' in err


def test_no_more_than_a_fraction_is_skipped(damaged, capsys):
    assert_refused('convert own out --skip-invalid', capsys, '20% of the images', '--max-invalid')
    assert_refused('convert own out --max-invalid 0', capsys, '--max-invalid')


def test_a_split_is_not_skipped_away(damaged, capsys):
    for i in (4, 5):
        path = damaged / f'images/val/{i:02}.jpg'
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b'no image')
    write_labels(damaged / 'labels/val/04.txt', '0 .5 .5 .1 .1')
    with open(damaged / 'data.yaml', 'a') as file:
        file.write('val: images/val\n')
    assert_refused('convert own out --skip-invalid --max-invalid 1', capsys, 'val')


def test_objects_are_not_all_skipped_away(own, capsys):
    for i, line in enumerate(('0 .5 .5', '')):
        draw_image(own / f'images/{i}.jpg', seed=i)
        write_labels(own / f'labels/{i}.txt', line)
    write_labels(own / 'data.yaml', 'train: images', 'names: [cat]')
    flags = '--skip-invalid --max-invalid 0.5'
    assert_refused(f'convert own out {flags}', capsys, 'no image has an instance', '0.txt, line 1')
    write_labels(own / 'labels/0.txt')
    assert_refused('convert own out', capsys, 'no image has an instance', 'where the format')


def test_lost_images_are_all_named(own, capsys):
    draw_image(own / 'train/0.jpg')
    names = [f'{i}.jpg' for i in range(12)]
    images = [dict(id=i + 1, file_name=n, width=64, height=48) for i, n in enumerate(names)]
    write_coco(own / 'annotations/train.json', images)
    assert_refused('convert own out', capsys, '11 images not found', '1.jpg', 'own/train')
    images = images[:1] * 1 + images[1:2]
    write_coco(own / 'annotations/train.json', images)
    assert converted('own', '--skip-invalid --max-invalid 0.5')['train'].keys() == {'0.jpg'}


def test_annotations_without_an_image_count(own, capsys):
    for i in range(3):
        draw_image(own / f'images/{i}.jpg', seed=i)
        write_labels(own / f'labels/{i}.txt', '0 .5 .5 .25 .25')
    for i in range(3, 5):
        write_labels(own / f'labels/{i}.txt', '0 .5 .5 .25 .25')
    write_labels(own / 'data.yaml', 'train: images', 'names: [cat]')
    assert_refused('convert own out', capsys, '2 annotation files have no image', '3.txt', '4.txt')
    assert_refused('convert own out --skip-invalid', capsys, '40%')
    assert len(converted('own', '--skip-invalid --max-invalid 0.4')['train']) == 3


def test_the_list_goes_elsewhere_where_nothing_can_be_written(damaged, capsys, monkeypatch):
    import tempfile

    from effvim.formats import findings

    def refuse(path, *parts, write=findings.write_atomic):
        if not path.is_absolute():
            raise OSError('read-only')
        write(path, *parts)

    monkeypatch.setattr(findings, 'write_atomic', refuse)
    monkeypatch.setattr(tempfile, 'tempdir', str(damaged.parent))
    assert_refused('convert own out', capsys, f'{damaged.parent}/own_defects.txt')
