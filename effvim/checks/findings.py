"""The report of `effvim check`: facts by section, problems and notes, as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

EXAMPLES = 5  # shown of each kind of mistake; the others are counted


class Finding(NamedTuple):
    """Mistakes of one kind in one place.

    Attributes:
        where: section, e.g. 'data: training'.
        what: the mistake.
        number: how often it occurs.
        examples: the first places, at most `EXAMPLES`; empty if it has no place.
    """

    where: str
    what: str
    number: int
    examples: list[str]

    def __str__(self) -> str:
        count = f'{self.number:,} ' if self.examples else ''
        more = ' …' if self.number > len(self.examples) else ''
        examples = f': {"; ".join(self.examples)}{more}' if self.examples else ''
        return f'{self.where}: {count}{self.what}{examples}'


class Report:
    """Collects facts, problems (exit status 1) and notes (exit status 0)."""

    def __init__(self) -> None:
        self.facts: dict[str, dict[str, Any]] = {}
        self.lines: list[str] = []
        self.problems: list[Finding] = []
        self.notes: list[Finding] = []

    def fact(self, section: str, name: str, line: str, **values: Any) -> None:
        """Add a fact: `line` for the text, `values` for JSON (default: the line)."""
        if section not in self.facts:
            self.lines.append(section)
        self.facts.setdefault(section, {})[name] = values or line
        self.lines.append(f'  {name}: {line}')

    def problem(self, where: str, what: str, places: Sequence[str] | None = None) -> None:
        """Add a problem.

        Args:
            where: section.
            what: the mistake.
            places: one text for each place; an empty sequence adds nothing, None is a problem
                without places.
        """
        self._add(self.problems, where, what, places)

    def note(self, where: str, what: str, places: Sequence[str] | None = None) -> None:
        """Add a note, with arguments as of `problem`."""
        self._add(self.notes, where, what, places)

    @staticmethod
    def _add(findings: list[Finding], where: str, what: str, places: Sequence[str] | None) -> None:
        if places is None:
            findings.append(Finding(where, what, 1, []))
        elif places:
            findings.append(Finding(where, what, len(places), list(places[:EXAMPLES])))

    @property
    def status(self) -> int:
        """The exit status: 1 if there is a problem."""
        return int(bool(self.problems))

    def text(self) -> str:
        """The report as text."""
        counts = [
            f'{len(findings) or "no"} {word}{"" if len(findings) == 1 else "s"}'
            for word, findings in (('problem', self.problems), ('note', self.notes))
        ]
        return '\n'.join(
            [
                *self.lines,
                *(f'problem: {" ".join(str(finding).split())}' for finding in self.problems),
                *(f'note: {" ".join(str(finding).split())}' for finding in self.notes),
                ', '.join(counts),
            ]
        )

    def content(self) -> dict[str, Any]:
        """The report for JSON."""
        return {
            'status': self.status,
            **self.facts,
            'problems': [finding._asdict() for finding in self.problems],
            'notes': [finding._asdict() for finding in self.notes],
        }
