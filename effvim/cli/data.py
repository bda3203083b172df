"""`effvim data`: convert, split, summarize and draw your own dataset."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backbone.errors import UserError
from effvim.cli.options import Parser, at_least, existing_config

if TYPE_CHECKING:
    from effvim.formats.dataset import Dataset

HELP = 'your own dataset in COCO, YOLO or Pascal VOC format, or with mask PNGs'
FORMATS = ('coco', 'yolo', 'voc', 'masks')
MAX_INVALID = 0.1  # fraction of the images


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands."""
    actions = parser.add_subparsers(
        dest='action', required=True, metavar='ACTION', title='actions', parser_class=Parser
    )
    convert = _add(actions, 'convert', 'write the dataset in another format')
    convert.add_argument(
        '--to',
        choices=FORMATS,
        help='format to write (default: coco, or masks for a dataset of masks)',
    )
    split = _add(actions, 'split', 'split the dataset into training and validation sets')
    split.add_argument(
        '--val',
        type=float,
        default=0.2,
        metavar='FRACTION',
        help='fraction of the images for validation (default: 0.2)',
    )
    split.add_argument(
        '--group-by',
        metavar='REGEX',
        help='keep images together in whose path, relative to the images, the first '
        "group of this regular expression finds the same text, e.g. '^(.*)_frame'",
    )
    stats = _add(
        actions, 'stats', 'print statistics: images, instances, classes, sizes, anchors', False
    )
    stats.add_argument(
        '--config',
        default='retinanet_effvim_m4',
        help='config whose anchors are compared with the boxes: a file, or the name of a '
        'packaged config (default: retinanet_effvim_m4)',
    )
    stats.add_argument('--json', action='store_true', help='print JSON')
    browse = _add(actions, 'browse', 'save some images with their annotations drawn')
    browse.add_argument(
        '--limit',
        type=int,
        default=16,
        metavar='N',
        help='number of images of each split (default: 16)',
    )
    for action in (split, browse):
        action.add_argument(
            '--seed', type=int, default=0, metavar='N', help='random seed (default: 0)'
        )


def _add(actions: Any, name: str, text: str, writes: bool = True) -> argparse.ArgumentParser:
    """A subcommand with what all of them take; `writes`: whether it creates a directory."""
    action: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text)
    action.add_argument(
        'source', type=Path, help='directory of the dataset, or its data.yaml or JSON file'
    )
    if writes:
        action.add_argument('target', type=Path, help='directory to create')
    action.add_argument(
        '--clip',
        action='store_true',
        help='clip boxes that extend beyond their image (default: they are an error)',
    )
    action.add_argument(
        '--skip-invalid',
        action='store_true',
        help='skip images that are invalid or have an invalid annotation (default: an error '
        'that lists them)',
    )
    action.add_argument(
        '--max-invalid',
        type=float,
        default=MAX_INVALID,
        metavar='FRACTION',
        help=f'with --skip-invalid: skip at most this fraction of the images (default: '
        f'{MAX_INVALID})',
    )
    action.add_argument(
        '--colors',
        type=Path,
        metavar='FILE',
        help='classes of the colours or values of masks: lines "R G B NAME" or "VALUE NAME", '
        'or JSON (default: e.g. colors.txt, labelmap.txt or class_dict.csv in the dataset)',
    )
    return action


def run(args: argparse.Namespace) -> None:
    """Read the dataset and do what the subcommand says."""
    from effvim import console
    from effvim.files import check_is_new
    from effvim.formats.checking import checked
    from effvim.formats.detect import read
    from effvim.formats.findings import Findings

    if args.action != 'stats':
        check_is_new(args.target)
    if args.action == 'browse':
        at_least('--limit', args.limit, 1)
    config = existing_config(args.config) if args.action == 'stats' else None
    if not 0 < args.max_invalid <= 1:
        raise UserError(f'--max-invalid {args.max_invalid:g}: pass a fraction above 0, at most 1')
    if args.colors and not args.colors.is_file():
        raise UserError(f'--colors {args.colors} not found: pass a table of colours and classes')
    findings = Findings()
    dataset = read(args.source, findings, args.colors)
    dataset = checked(dataset, findings, args.clip, merge=args.action == 'split')
    dataset = findings.settle(dataset, args.skip_invalid, args.max_invalid)
    for note in findings.all_notes():
        console.note(note)
    if args.action == 'stats':
        from effvim.config.reading import load_config
        from effvim.formats import stats

        assert config
        summary = stats.measure(dataset, load_config(config))
        if args.json:
            print(json.dumps(summary, indent=2, ensure_ascii=False))
        else:
            console.show(stats.table(summary))
    elif args.action == 'browse':
        from effvim.formats.browse import browse

        drawn = browse(dataset, args.target, args.limit, args.seed)
        print(f'{drawn} images: {args.target}')
    elif args.action == 'split':
        from effvim.formats.split import find_copies, split

        if len(dataset.splits) > 1:
            console.note(
                f'{", ".join(dataset.splits)} are merged and split again; effvim data convert '
                f'keeps them'
            )
        copies = find_copies(dataset.images())
        if copies:
            number = sum(map(len, copies)) - len(copies)
            console.note(
                f'{number:,} image{"s are copies" if number > 1 else " is a copy"} of another one '
                f'under another name, e.g. {", ".join(sorted(p.name for p in copies[0]))}: they '
                f'stay together'
            )
        divided = split(dataset, args.val, args.seed, args.group_by, copies)
        write_dataset(divided, args.target, None)
    else:
        write_dataset(dataset, args.target, args.to)


def write_dataset(dataset: Dataset, target: Path, kind: str | None) -> None:
    """Write a dataset and print what it holds.

    Args:
        dataset: what to write.
        target: a directory that does not exist.
        kind: one of `FORMATS` (default: coco, or masks for a dataset of masks).
    """
    from effvim import console
    from effvim.formats.dataset import count_instances
    from effvim.formats.write import write

    kind = kind or ('masks' if any(image.mask for image in dataset.images()) else 'coco')
    dropped = write(dataset, target, kind)
    for split, images in dataset.splits.items():
        counts = count_instances(images, dataset.classes)
        print(
            f'{split}: {len(images):,} images; '
            + ', '.join(f'{name} {count:,}' for name, count in counts.items())
        )
        absent = [name for name, count in counts.items() if not count]
        if absent:
            console.note(f'{split} has no instance of {", ".join(absent)}')
    if dropped:
        console.note(f'{kind} cannot hold, dropped: {", ".join(dropped)}')
    print(f'written: {target}')
