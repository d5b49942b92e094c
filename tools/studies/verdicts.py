"""What the study answers, as data: each answer names the comparisons that it rests on, and what they have to show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tools.studies.report import Results
    from vipo.statistics import Interval


@dataclass(frozen=True)
class Evidence:
    """A comparison, seed by seed, and which way it has to go.

    Attributes:
        sign: ``'+'`` or ``'-'``: the interval lies above or below zero; ``'0'``: it holds zero.
        measure: column of the results, and what the table calls it.
    """

    variant: str
    sign: str
    reference: str
    measure: str
    called: str

    def interval(self, results: Results) -> Interval | None:
        return results.against(self.variant, self.measure, self.reference)

    def holds(self, results: Results) -> bool:
        """Whether the results show what the answer says."""
        x = self.interval(results)
        return x is not None and {'+': x.low > 0, '-': x.high < 0, '0': x.low <= 0 <= x.high}[self.sign]

    def describe(self, results: Results) -> str:
        x = self.interval(results)
        return f'`{self.variant}` less `{self.reference}`, {self.called}: {"not run" if x is None else x.describe("+")}'


@dataclass(frozen=True)
class Verdict:
    """A question, a short answer, and its evidence."""

    question: str
    answer: str
    evidence: tuple[Evidence, ...]


def _reward(variant: str, sign: str, reference: str, called: str = 'trained reward') -> Evidence:
    return Evidence(variant, sign, reference, 'reward', called)


def _judge(variant: str, sign: str, reference: str) -> Evidence:
    return Evidence(variant, sign, reference, 'judge', 'judge')


def _shape(variant: str, sign: str, reference: str) -> Evidence:
    return Evidence(variant, sign, reference, 'judge/shape', 'shape')


def _background(variant: str, sign: str, reference: str) -> Evidence:
    return Evidence(variant, sign, reference, 'change/background', 'background change')


VERDICTS = (
    Verdict(
        'Does ViPO gain more of the trained reward than GRPO?',
        '**No**, little more than half.',
        (_reward('vipo', '-', 'grpo'),),
    ),
    Verdict(
        'Does it make better objects?',
        '**Yes**, by a judge that knows the named objects alone.',
        (_judge('vipo', '+', 'grpo'), _shape('vipo', '+', 'grpo')),
    ),
    Verdict(
        'Does it leave the rest of the picture alone?',
        '**Yes**, the background changes half as much.',
        (_background('vipo', '-', 'grpo'),),
    ),
    Verdict(
        'Would smaller steps of GRPO do the same?',
        '**No**: they change the background as little, and the objects gain nothing.',
        (_shape('vipo', '+', 'grpo_lr_half'), _background('vipo', '0', 'grpo_lr_half')),
    ),
    Verdict(
        'Why does ViPO gain less reward?',
        "**This reward's signal is in the background**: pressure on it alone gains what GRPO gains.",
        (_reward('oracle_background', '0', 'grpo'), _reward('oracle', '-', 'grpo')),
    ),
    Verdict(
        'And where the reward sees the objects alone?',
        '**Maps win that lie on what it sees.** ViPO as shipped knows nothing of it, and is not clearly ahead.',
        (
            _reward('fit_attribution', '+', 'fit_grpo', 'that reward'),
            _reward('fit_places', '+', 'fit_grpo', 'that reward'),
            _reward('fit_vipo', '0', 'fit_grpo', 'that reward'),
            _background('fit_vipo', '-', 'fit_grpo'),
        ),
    ),
    Verdict(
        'Can a map be too narrow?',
        '**Yes**: the shapes alone gain less than no map, as the reward also asks what is beside them.',
        (_reward('fit_oracle', '-', 'fit_grpo', 'that reward'),),
    ),
    Verdict(
        'Is a ratio for each position worth something without a map?',
        '**No**, at these settings the all-ones map is GRPO.',
        (_reward('uniform', '0', 'grpo'), _judge('uniform', '0', 'grpo')),
    ),
    Verdict(
        'Does a map protect against a foolish reward (redness)?',
        '**It slows it down**, and more of the objects is left after as long; at equal redness they are worse off.',
        (_reward('red_vipo', '-', 'red_grpo', 'redness'), _judge('red_vipo', '+', 'red_grpo')),
    ),
)


def verdict_table(results: Results) -> list[str]:
    """The questions as a table in Markdown."""
    lines = ['| question | answer | differences, seed by seed |', '| --- | --- | --- |']
    for verdict in VERDICTS:
        evidence = '<br>'.join(x.describe(results) for x in verdict.evidence)
        lines.append(f'| {verdict.question} | {verdict.answer} | {evidence} |')
    return lines
