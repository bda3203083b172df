"""What `tools/check.py` found: facts by section, problems and notes; as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

EXAMPLES = 5  # of the same kind of mistake; the rest is counted


class Finding(NamedTuple):
    """Mistakes of one kind in one place."""

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
    """Facts, problems (they make the exit status 1) and notes (they do not)."""

    def __init__(self) -> None:
        self.facts: dict[str, dict[str, Any]] = {}
        self.lines: list[str] = []
        self.problems: list[Finding] = []
        self.notes: list[Finding] = []

    def fact(self, section: str, name: str, line: str, **values: Any) -> None:
        """A fact: as a line of text, and as plain values for JSON (the line, if there are none)."""
        if section not in self.facts:
            self.lines.append(section)
        self.facts.setdefault(section, {})[name] = values or line
        self.lines.append(f'  {name}: {line}')

    def problem(self, where: str, what: str, found: Sequence[str] | None = None) -> None:
        """Something wrong; with `found`, one text for each place, nothing if it is empty."""
        self._add(self.problems, where, what, found)

    def note(self, where: str, what: str, found: Sequence[str] | None = None) -> None:
        """Something to know; `found` as in `problem`."""
        self._add(self.notes, where, what, found)

    @staticmethod
    def _add(findings: list[Finding], where: str, what: str, found: Sequence[str] | None) -> None:
        if found is None:
            findings.append(Finding(where, what, 1, []))
        elif found:
            findings.append(Finding(where, what, len(found), list(found[:EXAMPLES])))

    @property
    def status(self) -> int:
        """The exit status: 1 if there is a problem."""
        return int(bool(self.problems))

    def text(self) -> str:
        """The report for a person."""
        counted = [
            f'{len(found) or "no"} {word}{"" if len(found) == 1 else "s"}'
            for word, found in (('problem', self.problems), ('note', self.notes))
        ]
        return '\n'.join(
            [
                *self.lines,
                *(f'problem: {" ".join(str(found).split())}' for found in self.problems),
                *(f'note: {" ".join(str(found).split())}' for found in self.notes),
                ', '.join(counted),
            ]
        )

    def content(self) -> dict[str, Any]:
        """The report for a program."""
        return {
            'status': self.status,
            **self.facts,
            'problems': [found._asdict() for found in self.problems],
            'notes': [found._asdict() for found in self.notes],
        }
