"""`effvim imagenet`: evaluate a classifier on ImageNet."""

from __future__ import annotations

import argparse

HELP = 'evaluate a classifier: top-1 and top-5 accuracy on a directory of labelled images'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        'weights', help='weight file, or a hub id such as timm/efficientvim_m4.e450_in1k'
    )
    parser.add_argument(
        'root',
        help='directory with a directory of images for each class, in alphabetical order of the '
        "logits, e.g. ImageNet's validation images sorted into n01440764 to n15075141",
    )
    parser.add_argument(
        '--ema',
        action='store_const',
        const=True,
        help="take the averaged weights of an authors' file, which have the published top-1",
    )
    parser.add_argument(
        '--image-size',
        type=int,
        metavar='N',
        help='pixels per side of the input (default: 256 for M4, 224 for the others)',
    )
    parser.add_argument(
        '--batch-size', type=int, default=64, metavar='N', help='batch size (default: 64)'
    )
    parser.add_argument(
        '--workers',
        type=int,
        default=2,
        metavar='N',
        help='processes that load images (default: 2)',
    )


def run(args: argparse.Namespace) -> None:
    """Evaluate and print the accuracy."""
    from backbone.hub import resolve

    weights = resolve(args.weights)

    import torch

    from backbone.imagenet import classifier_from, evaluate
    from effvim import console

    network = classifier_from(weights, args.ema)
    if torch.cuda.is_available():
        network.cuda()
    with console.progress('images') as bar:
        task = bar.add_task('images')
        result = evaluate(
            network,
            args.root,
            args.image_size,
            args.batch_size,
            args.workers,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    print(f'top-1 {result["top1"]:.2f}, top-5 {result["top5"]:.2f} on {result["images"]} images')
