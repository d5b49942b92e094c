"""The gallery of the study, from runs that are pretended."""

import numpy as np
import pytest
from PIL import Image

from tools.studies.collect import write_gallery
from tools.studies.jobs import plan
from tools.studies.variants import find

SHADES = {'before': 0, 'grpo': 80, 'vipo': 160, 'oracle': 240}


@pytest.fixture
def jobs(tmp_path):
    """Three variants of the gallery and another one; seed 0 lacks one of the three."""
    planned = plan(find(['grpo', 'vipo', 'oracle', 'vipo_k5'], False), [0, 1], tmp_path / 'runs', False)
    for job in planned:
        if job.key == ('oracle', 0) or job.variant.name == 'vipo_k5':
            continue
        job.tested.mkdir(parents=True)
        (job.tested / 'results.json').write_text('{}')
        before, after = (
            np.full((3, 3, 1, 8, 8), SHADES[name] + job.seed, np.uint8) for name in ('before', job.variant.name)
        )
        np.savez(job.tested / 'pictures.npz', prompts=['a cat', 'a dog', 'a hen'], before=before, after=after)
    return planned


def test_rows_are_policies_and_columns_prompts(jobs, tmp_path):
    sheet = np.asarray(Image.open(write_gallery(jobs, tmp_path)))
    assert write_gallery(jobs, tmp_path) == tmp_path / 'gallery.png'
    # of seed 1, where all runs are there: the first pixels of each picture, down and across
    for row, shade in enumerate(SHADES.values()):
        for column in range(3):
            assert (sheet[112 + 136 * row + 50, 150 + 136 * column + 50] == shade + 1).all()


def test_nothing_is_written_without_a_seed_that_has_all(jobs, tmp_path):
    assert write_gallery([job for job in jobs if job.seed == 0], tmp_path) is None
    assert not (tmp_path / 'gallery.png').exists()
