"""What the study's page answers is what its table of results shows."""

import csv

import pytest

from tests.engine.conftest import ROOT
from tools.studies.collect import RESULTS
from tools.studies.report import Results
from tools.studies.variants import VARIANTS
from tools.studies.verdicts import DEFAULTS, VERDICTS, Evidence, verdict_table

SHIPPED = ROOT / 'docs' / 'study' / 'results.csv'


@pytest.mark.parametrize('verdict', [*VERDICTS, *DEFAULTS], ids=lambda verdict: verdict.question)
def test_shipped_results_show_what_is_answered(verdict):
    results = Results(SHIPPED)
    for evidence in verdict.evidence:
        assert evidence.holds(results), evidence.describe(results)
        assert {evidence.variant, evidence.reference} - {None} <= {v.name for v in VARIANTS}


@pytest.fixture
def results(tmp_path):
    """Seeds go up and down together: what one variant has more is 0.02 to 0.03, far less than they differ by seed."""
    with open(tmp_path / 'results.csv', 'w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(RESULTS)
        for seed, base in enumerate((0.1, 0.5, 0.9)):
            for variant, more in (('grpo', 0.0), ('vipo', 0.02 + 0.005 * seed)):
                writer.writerow(['a', variant, seed, 'reward', '', '', base + more, 0, 0, ''])
    return Results(tmp_path / 'results.csv')


def test_the_sign_decides(results):
    def holds(sign, variant='vipo', reference='grpo'):
        return Evidence(variant, sign, reference, 'reward', 'reward').holds(results)

    assert [holds(sign) for sign in '+-0'] == [True, False, False]
    assert [holds(sign, 'grpo', 'vipo') for sign in '+-0'] == [False, True, False]
    assert not any(holds(sign, 'vipo_k5') for sign in '+-0='), 'what was not run shows nothing'
    alike = [Evidence('vipo', '=', 'grpo', 'reward', 'reward', margin).holds(results) for margin in (0.03, 0.04)]
    assert alike == [False, True], 'the interval reaches to 0.0374'


def test_table_has_the_numbers(results):
    lines = verdict_table(results, VERDICTS, 'question', 'answer')
    assert lines[0].startswith('| question | answer |')
    assert len(lines) == 2 + len(VERDICTS)
    assert all(line.count('|') == 4 for line in lines)
    assert '`vipo` less `grpo`, trained reward: +0.025 (+0.013 to +0.037)' in lines[2]
    assert 'not run' in lines[3]
