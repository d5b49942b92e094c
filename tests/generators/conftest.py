"""Twins are written once for all tests, in the layout of their real siblings."""

import pytest

from vipo.generators.twins import TWINS, save_twin


@pytest.fixture(scope='session')
def twin_folder(tmp_path_factory):
    root, made = tmp_path_factory.mktemp('twins'), {}

    def folder(name):
        if name not in made:
            made[name] = save_twin(name, root / name)
        return made[name]

    assert set(TWINS) == {'sd3', 'flux', 'wan21', 'wan22', 'wan22_5b', 'hunyuan_video'}
    return folder
