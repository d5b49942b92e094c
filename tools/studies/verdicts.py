"""What the study answers, as data: each answer names the comparisons that it rests on, and what they have to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tools.studies.report import Results
    from vipo.statistics import Interval


@dataclass(frozen=True)
class Evidence:
    """A comparison, seed by seed, or a change by training, and which way it has to go.

    Attributes:
        reference: what the variant is compared with; None: it is the change of the variant itself.
        sign: ``'+'`` or ``'-'``: the interval lies above or below zero; ``'0'``: it holds zero, so that nothing is
            shown; ``'='``: it lies within ``margin`` on both sides of zero, so that the two are alike.
        measure: column of the results.
        called: what the table calls it.
    """

    variant: str
    sign: str
    reference: str | None
    measure: str
    called: str
    margin: float = 0.0

    def interval(self, results: Results) -> Interval | None:
        if self.reference is None:
            return results.change(self.variant, self.measure)
        return results.against(self.variant, self.measure, self.reference)

    def holds(self, results: Results) -> bool:
        """Whether the results show what the answer says."""
        x = self.interval(results)
        if x is None:
            return False
        alike = -self.margin <= x.low and x.high <= self.margin
        return {'+': x.low > 0, '-': x.high < 0, '0': x.low <= 0 <= x.high, '=': alike}[self.sign]

    def describe(self, results: Results) -> str:
        x = self.interval(results)
        less = '' if self.reference is None else f' less `{self.reference}`'
        return f'`{self.variant}`{less}, {self.called}: {"not run" if x is None else x.describe("+")}'


@dataclass(frozen=True)
class Verdict:
    """A question, a short answer, and its evidence."""

    question: str
    answer: str
    evidence: tuple[Evidence, ...]


def _reward(variant: str, sign: str, reference: str, called: str = 'trained reward', margin: float = 0.0) -> Evidence:
    return Evidence(variant, sign, reference, 'reward', called, margin)


def _judge(variant: str, sign: str, reference: str | None, margin: float = 0.0) -> Evidence:
    return Evidence(variant, sign, reference, 'judge', 'judge', margin)


def _shape(variant: str, sign: str, reference: str | None) -> Evidence:
    return Evidence(variant, sign, reference, 'judge/shape', 'shape')


def _ground(variant: str, sign: str, reference: str | None) -> Evidence:
    return Evidence(variant, sign, reference, 'judge/ground', 'ground off')


def _clipped(variant: str, sign: str, where: str = '', margin: float = 0.0) -> Evidence:
    measure = {'': 'fraction', 'high': 'inside', 'low': 'outside'}[where]
    called = f'share clipped{where and f" where the map is {where}"}'
    return Evidence(variant, sign, None, f'log/clipped_{measure}', called, margin)


def _background(variant: str, sign: str, reference: str, margin: float = 0.0) -> Evidence:
    return Evidence(variant, sign, reference, 'change/background', 'background change', margin)


VERDICTS = (
    Verdict(
        'Does ViPO gain more of the trained reward than GRPO?',
        '**No**, less than two thirds.',
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
        'Is it a matter of the learning rate?',
        '**No**: at half of it GRPO changes the background as little, and the objects gain nothing; at twice they '
        "trail ViPO's, and at four times they suffer. ViPO at twice the rate is still behind in reward, and at four "
        'times its objects suffer too.',
        (
            _shape('vipo', '+', 'grpo_lr_half'),
            _background('vipo', '=', 'grpo_lr_half', margin=0.003),
            _shape('vipo', '+', 'grpo_lr_x2'),
            _judge('grpo_lr_x4', '-', 'grpo'),
            _reward('vipo_lr_x2', '-', 'grpo'),
            _judge('vipo_lr_x4', '-', 'vipo'),
        ),
    ),
    Verdict(
        'Would any map of the kind do?',
        '**No**: as much pressure on a blob elsewhere gains no shape, and changes the background as GRPO does.',
        (
            _shape('vipo', '+', 'oracle_random'),
            _judge('vipo', '+', 'oracle_random'),
            _shape('oracle', '+', 'oracle_random'),
            _shape('oracle_random', '0', None),
            _background('vipo', '-', 'oracle_random'),
            _background('oracle_random', '0', 'grpo'),
        ),
    ),
    Verdict(
        'Why does ViPO gain less reward?',
        "**This reward's signal is in the background**: pressure on it alone gains what GRPO gains.",
        (_reward('oracle_background', '=', 'grpo', margin=0.002), _reward('oracle', '-', 'grpo')),
    ),
    Verdict(
        'Do the backgrounds become better with it?',
        '**No**: they move away from the colour that the prompt names, and with GRPO farther than with ViPO.',
        (
            _ground('grpo', '+', None),
            _ground('oracle_background', '+', None),
            _ground('vipo', '-', 'grpo'),
            _ground('oracle', '-', 'oracle_background'),
        ),
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
        "Does a component's sign matter?",
        '**Yes**: maps on the objects make better objects than GRPO does, maps that avoid them worse ones.',
        (
            _shape('vipo', '+', 'grpo'),
            _shape('vipo_minority', '+', 'grpo'),
            _shape('vipo_cls_attention', '-', 'grpo'),
            _shape('vipo_feature_norm', '-', 'grpo'),
            _shape('vipo_as_computed', '0', 'grpo'),
        ),
    ),
    Verdict(
        'May the map multiply the reward in place of the advantage?',
        '**No**: in a group the maps then differ more than the rewards, and the maps are what is learned.',
        (_reward('vipo_on_reward', '-', 'vipo'), _judge('vipo_on_reward', '-', 'vipo')),
    ),
    Verdict(
        'Smoothing, components?',
        'Without smoothing the objects gain less; with twice as much the reward gains more, and they no less. '
        'Five components are as good as three, one gains less reward. Equal weights gain reward and move the '
        "background; the reward's own tower as backbone gains reward and costs shape.",
        (
            _judge('vipo_sigma0', '-', 'vipo'),
            _reward('vipo_sigma2', '+', 'vipo'),
            _judge('vipo_sigma2', '=', 'vipo', margin=0.003),
            _judge('vipo_k5', '=', 'vipo', margin=0.003),
            _reward('vipo_first', '-', 'vipo'),
            _reward('vipo_average', '+', 'vipo'),
            _background('vipo_average', '+', 'vipo'),
            _reward('vipo_reward_tower', '+', 'vipo'),
            _shape('vipo_reward_tower', '-', 'vipo'),
        ),
    ),
    Verdict(
        'Is a ratio for each position worth something without a map?',
        '**No**, at these settings the all-ones map is GRPO.',
        (_reward('uniform', '=', 'grpo', margin=0.001), _judge('uniform', '=', 'grpo', margin=0.001)),
    ),
    Verdict(
        'Where does clipping bind?',
        '**Nowhere, with the shipped range**, and at a quarter of it hardly. At a twentieth it binds at 0.5 % of the '
        'positions, most where the map is high: steps are smaller, and nothing is clearly better or worse.',
        (
            _clipped('vipo', '=', margin=1e-6),
            _clipped('vipo_clip_0.05', '=', margin=1e-4),
            _clipped('vipo_clip_0.01', '+', 'high'),
            _clipped('vipo_clip_0.01', '=', 'low', margin=0.001),
            _background('vipo_clip_0.01', '-', 'vipo'),
            _reward('vipo_clip_0.01', '0', 'vipo'),
            _judge('vipo_clip_0.01', '0', 'vipo'),
        ),
    ),
    Verdict(
        'Does a map protect against a foolish reward (redness)?',
        '**It slows it down**, and more of the objects is left after as long; at equal redness they are worse off.',
        (_reward('red_vipo', '-', 'red_grpo', 'redness'), _judge('red_vipo', '+', 'red_grpo')),
    ),
)


#: A shipped default -> why it is that, against what else was tried.
DEFAULTS = (
    Verdict(
        '`structurer.allocator.orientation=center`',
        "The paper's code leaves the sign to chance, and the objects gain less.",
        (_judge('vipo_as_computed', '-', 'vipo'), _shape('vipo_as_computed', '-', 'vipo')),
    ),
    Verdict(
        '`structurer.normalize=mean`',
        "The paper's [0, 1] gains no more of anything, and less shape.",
        (_reward('vipo_minmax', '=', 'vipo', margin=0.002), _shape('vipo_minmax', '-', 'vipo')),
    ),
    Verdict(
        '`structurer.allocator.sigma=1.0`',
        "The paper's. Sharper maps do less for the objects; smoother ones trade nothing measurable for more reward "
        'in the background, on a grid of 16 patches a side, where 2 patches are much.',
        (_judge('vipo_sigma0', '-', 'vipo'), _reward('vipo_sigma2', '+', 'vipo')),
    ),
    Verdict(
        '`structurer.allocator.components=3`, `combine=variance`',
        "The paper's. Five are alike; one loses reward; equal weights gain reward and move the background.",
        (
            _judge('vipo_k5', '=', 'vipo', margin=0.003),
            _reward('vipo_first', '-', 'vipo'),
            _reward('vipo_average', '+', 'vipo'),
            _background('vipo_average', '+', 'vipo'),
        ),
    ),
    Verdict(
        '`advantage.map_on=advantage`',
        "The paper's. On the reward the map ruins the generator.",
        (_reward('vipo_on_reward', '-', 'vipo'),),
    ),
    Verdict(
        '`loss.clip_range=0.2`, `clip_exponent=0`',
        'A bound on steps that go wrong, out of the way of those that do not. A quarter of it, or a range that grows '
        'with the map, ends in the same place; of a twentieth nothing is clearly better.',
        (
            _judge('vipo_clip_0.05', '=', 'vipo', margin=0.003),
            _judge('vipo_clip_0.01', '0', 'vipo'),
            _judge('vipo_clip_wide_inside', '=', 'vipo', margin=0.001),
            _reward('vipo_clip_wide_inside', '=', 'vipo', margin=0.001),
        ),
    ),
    Verdict(
        '`rollout.kernel.reduction=sum`',
        "The paper's. The mean over channels, with a range as much smaller, cannot be told apart.",
        (_reward('vipo_mean', '0', 'vipo'), _judge('vipo_mean', '0', 'vipo')),
    ),
    Verdict(
        'A backbone for the map, not the reward',
        "Maps of the reward's own tower or gradient gain more reward and less shape: for a reward that is trusted.",
        (
            _reward('vipo_attribution', '+', 'vipo'),
            _shape('vipo_attribution', '-', 'vipo'),
            _reward('vipo_reward_tower', '+', 'vipo'),
            _shape('vipo_reward_tower', '-', 'vipo'),
        ),
    ),
)


def verdict_table(results: Results, verdicts: Sequence[Verdict], *heads: str) -> list[str]:
    """Questions or defaults as a table in Markdown, whose first two columns have these headings."""
    lines = [f'| {" | ".join(heads)} | differences, seed by seed |', '| --- | --- | --- |']
    for verdict in verdicts:
        evidence = '<br>'.join(x.describe(results) for x in verdict.evidence)
        lines.append(f'| {verdict.question} | {verdict.answer} | {evidence} |')
    return lines
