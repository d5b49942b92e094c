import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import Registry

import vipo.registry
from vipo.diffusion import FlowKernel
from vipo.registry import ALLOCATORS, BACKBONES, KERNELS, ROOTS, STRUCTURERS, ConfigError, build_component
from vipo.registry.noun import NounRegistry
from vipo.structurers import PCAAllocator, PerceptualStructurer
from vipo.structurers.backbones import Backbone, Features

TOYS = Registry('toy', build_func=build_component, scope='vipo', locations=['vipo_toys'])


class PixelBackbone(Backbone):
    """Nobody registered this class: its dotted path is enough."""

    def __init__(self, patch: int = 4) -> None:
        self.patch = patch

    def __call__(self, pixels):
        return Features(F.avg_pool2d(pixels, self.patch))


def structurer(**change):
    return {
        'type': 'PerceptualStructurer',
        'backbone': {'type': f'{__name__}.PixelBackbone'},
        'allocator': {'type': 'PCAAllocator', 'components': 2},
        **change,
    }


def test_name_and_arguments():
    kernel = KERNELS.build({'type': 'FlowKernel', 'eta': 0.3, 'reduction': 'mean'})
    assert type(kernel) is FlowKernel
    assert (kernel.eta, kernel.reduction) == (0.3, 'mean')


@pytest.mark.parametrize('kind', [FlowKernel, 'vipo.FlowKernel', 'vipo.diffusion.kernels.FlowKernel'], ids=str)
def test_type_may_be_a_class_a_scoped_name_or_a_path(kind):
    assert type(KERNELS.build({'type': kind, 'eta': 0.3, '_scope_': 'vipo'})) is FlowKernel


def test_decorator_with_and_without_parentheses():
    toys = NounRegistry('toy', build_func=build_component, scope='vipo')

    @toys.register_module
    class Bare:
        pass

    @toys.register_module()
    class Called:
        pass

    @toys.register_module(name=['one', 'two'])
    class Named:
        pass

    assert toys.module_dict == {'Bare': Bare, 'Called': Called, 'one': Named, 'two': Named}
    with pytest.raises(ConfigError, match=rf"toy 'Bare' of {__name__}: {__name__} has one .*force=True"):
        toys.register_module(name='Bare', module=Called)
    toys.register_module(name='Bare', module=Called, force=True)
    assert toys.module_dict['Bare'] is Called


class Unfinished(Backbone):
    """Says nothing of what it does with pixels."""


def test_class_that_lacks_a_method_is_told_which():
    with pytest.raises(ConfigError, match=r"'structurer\.backbone': Unfinished does not define __call__, which"):
        STRUCTURERS.build(structurer(backbone={'type': f'{__name__}.Unfinished'}), at='structurer')


@pytest.mark.parametrize('wrong', ['DINOv2Backbone', ['DINOv2Backbone'], 3])
def test_key_of_a_part_that_is_no_section_is_whole(wrong):
    with pytest.raises(ConfigError, match=r"config key 'structurer\.backbone' (is the text|must be dict)"):
        STRUCTURERS.build(structurer(backbone=wrong), at='structurer')


def test_config_is_left_as_it_was():
    config = structurer()
    STRUCTURERS.build(config)
    assert config == structurer()


def test_built_object_is_taken_as_it_is():
    allocator = PCAAllocator()
    assert ALLOCATORS.build(allocator) is allocator
    assert STRUCTURERS.build(structurer(allocator=allocator)).allocator is allocator


@pytest.mark.parametrize(
    ('root', 'name'),
    [
        ('generator', 'SD3Generator'),
        ('kernel', 'CPSKernel'),
        ('step selector', 'Window'),
        ('reward', 'HPSReward'),
        ('reward', 'SceneJudge'),
        ('backbone', 'DINOv2Backbone'),
        ('allocator', 'UniformAllocator'),
        ('structurer', 'PerceptualStructurer'),
        ('loss', 'PolicyLoss'),
        ('strategy', 'FSDP2'),
    ],
)
def test_shipped_component_is_registered(root, name):
    ROOTS[root].import_from_location()
    assert name in ROOTS[root].module_dict


def test_location_is_imported_when_first_asked(tmp_path, monkeypatch):
    (tmp_path / 'vipo_toys.py').write_text(
        f'from {__name__} import TOYS\n\n@TOYS.register_module()\nclass Ball: pass\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert type(TOYS.build({'type': 'Ball'})).__name__ == 'Ball'


@pytest.mark.parametrize(
    ('constant', 'wrong', 'right'),
    [
        ('KERNELS', 'FlowKernal', 'FlowKernel'),
        ('REWARDS', 'hpsreward', 'HPSReward'),
        ('STEP_SELECTORS', 'Windows', 'Window'),
        ('LOSSES', 'PolicyLosses', 'PolicyLoss'),
    ],
)
def test_unknown_type_names_the_closest_and_how_to_register(constant, wrong, right):
    with pytest.raises(ConfigError) as caught:
        getattr(vipo.registry, constant).build({'type': wrong}, at='some.key')
    message = str(caught.value)
    assert f"'{wrong}'. Did you mean '{right}'" in message
    assert "'some.key'" in message
    assert f'@vipo.registry.{constant}.register_module()' in message
    assert 'custom_imports' in message


def test_no_suggestion_where_nothing_is_close():
    with pytest.raises(ConfigError) as caught:
        KERNELS.build({'type': 'Xyz'})
    assert 'Did you mean' not in str(caught.value)
    assert 'Known: CPSKernel, DanceKernel, FlowKernel' in str(caught.value)


def test_wrong_argument_shows_signature_and_config_path():
    config = structurer(allocator={'type': 'PCAAllocator', 'componets': 2})
    with pytest.raises(ConfigError) as caught:
        STRUCTURERS.build(config, at='structurer')
    message = str(caught.value)
    assert "'structurer.allocator'" in message
    assert "'componets'" in message
    assert "Did you mean 'components'" in message
    assert 'PCAAllocator(components: ' in message
    assert 'sigma' in message


def test_missing_argument():
    with pytest.raises(ConfigError, match=r"'rollout\.kernel': missing a required argument: 'eta'.*FlowKernel\(eta"):
        KERNELS.build({'type': 'FlowKernel'}, at='rollout.kernel')


def test_missing_type():
    with pytest.raises(ConfigError, match=r"'structurer\.backbone': no \"type\" is given\. Known: .*DINOv2Backbone"):
        STRUCTURERS.build(structurer(backbone={'patch': 4}), at='structurer')


def test_type_that_is_no_name():
    with pytest.raises(ConfigError, match='must be a name'):
        KERNELS.build({'type': 3})


def test_path_is_forgotten_after_an_error():
    for _ in range(2):
        with pytest.raises(ConfigError, match="config key 'kernel'"):
            KERNELS.build({'type': 'Nothing'})


def test_error_inside_a_component_is_not_hidden():
    with pytest.raises(ValueError, match='eta must be finite') as caught:
        KERNELS.build({'type': 'FlowKernel', 'eta': -1}, at='rollout.kernel')
    assert str(caught.value).startswith("config key 'rollout.kernel': ")
    assert type(caught.value.__cause__) is ValueError


def test_dotted_path_needs_no_registration():
    built = STRUCTURERS.build(structurer(backbone={'type': f'{__name__}.PixelBackbone', 'patch': 8}))
    assert built.backbone.patch == 8
    assert built(torch.rand(2, 3, 1, 32, 32), (1, 4, 4)).shape == (2, 1, 1, 4, 4)
    BACKBONES.import_from_location()
    assert 'PixelBackbone' not in BACKBONES.module_dict


@pytest.mark.parametrize(
    ('path', 'match'),
    [
        ('no_such_module.Thing', "cannot be imported: No module named 'no_such_module'.*PYTHONPATH"),
        ('vipo.structurers.allocators.PCAAlocator', "has no 'PCAAlocator'. Did you mean 'PCAAllocator'"),
    ],
)
def test_wrong_dotted_path(path, match):
    with pytest.raises(ConfigError, match=match):
        ALLOCATORS.build({'type': path})


def test_decorator_registers_a_users_backbone():
    @BACKBONES.register_module()
    class Bright(Backbone):
        def __call__(self, pixels):
            return Features(F.avg_pool2d(pixels, 4))

    try:
        built = STRUCTURERS.build(structurer(backbone={'type': 'Bright'}))
        assert isinstance(built, PerceptualStructurer)
        assert type(built.backbone) is Bright
        assert built(torch.rand(2, 3, 1, 32, 32), (1, 4, 4)).shape == (2, 1, 1, 4, 4)
    finally:
        BACKBONES.module_dict.pop('Bright')
    with pytest.raises(ConfigError, match="no backbone named 'Bright'"):
        STRUCTURERS.build(structurer(backbone={'type': 'Bright'}))


def test_import_is_light():
    code = (
        'import sys, time; start = time.process_time(); import vipo; spent = time.process_time() - start;'
        "print([m for m in ('torch', 'transformers', 'diffusers', 'mmengine') if m in sys.modules], spent)"
    )
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    heavy, spent = out.rsplit(maxsplit=1)
    assert heavy == '[]'
    assert float(spent) < 0.5
