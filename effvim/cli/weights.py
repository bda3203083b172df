"""`effvim weights`: list, fetch, locate and verify published weights."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from effvim.cli.options import Parser

if TYPE_CHECKING:
    from rich.table import Table

HELP = 'published weights by name: list, fetch, locate, verify'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands."""
    actions = parser.add_subparsers(
        dest='action', required=True, metavar='ACTION', title='actions', parser_class=Parser
    )
    name = 'name that effvim weights list prints, e.g. retinanet_effvim_m4'
    for action, summary in (
        ('list', 'list all published weights, with their published score'),
        ('fetch', 'download, verify and convert weights into the cache'),
        ('path', 'print where weights are in the cache'),
        (
            'verify',
            'check all bytes of weights in the cache, and the names and shapes of tensors',
        ),
    ):
        subparser = actions.add_parser(action, help=summary, description=summary)
        if action == 'fetch':
            subparser.add_argument('names', nargs='+', metavar='NAME', help=name)
        elif action == 'path':
            subparser.add_argument('name', metavar='NAME', help=name)
        elif action == 'verify':
            subparser.add_argument(
                'names', nargs='*', metavar='NAME', help=f'{name} (default: all in the cache)'
            )


def run(args: argparse.Namespace) -> int:
    """Do what the subcommand says; returns the exit status, 1 if weights are not as they were."""
    from effvim import console
    from effvim.checkpoints import cache, fetching, published

    if args.action == 'list':
        console.show(table())
        print(f'cache: {cache.directory()}')
    elif args.action == 'path':
        print(fetching.cached_path(args.name))
    elif args.action == 'fetch':
        for name in args.names:
            published.find(name)  # a misspelt one before the first is downloaded
        for name in args.names:
            print(fetching.fetch(name), flush=True)
    else:
        every = published.index().values()
        names = args.names or [each.name for each in every if cache.path_of(each).is_file()]
        problems = {name: fetching.verify(name) for name in names}
        for name, problem in problems.items():
            print(f'{name}: {problem or "ok"}')
        if not names:
            print(f'no weights in {cache.directory()}')
        return 1 if any(problems.values()) else 0
    return 0


def table() -> Table:
    """All published weights, and which of them are in the cache."""
    from rich.table import Table

    from effvim.checkpoints import cache, published

    rendered = Table()
    rendered.add_column('name', no_wrap=True)
    rendered.add_column('task')
    rendered.add_column('published score')
    rendered.add_column('size', justify='right', no_wrap=True)
    rendered.add_column('cached', no_wrap=True)
    for weights in published.index().values():
        cached = cache.is_cached(weights)
        size = cache.path_of(weights).stat().st_size if cached else weights.size
        rendered.add_row(
            weights.name,
            weights.task,
            weights.score or '–',
            f'{size / 2**20:.1f} MiB' if size else '–',
            'yes' if cached else 'no',
        )
    return rendered
