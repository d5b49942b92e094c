"""The registries: every noun of the framework that a config file can name.

MMEngine imports this module for the scope ``vipo``, so it stays cheap: components are imported when one is first
asked for. The noun registries are roots, because MMEngine admits one child per parent and scope; the others are
children of MMEngine's own, so that ``type='CheckpointHook'`` keeps working beside ours.
"""

from mmengine import registry as mmengine_registry
from mmengine.registry import Registry

from vipo.registry.build import ConfigError, build_component
from vipo.registry.noun import NounRegistry

GENERATORS = NounRegistry('generator', build_func=build_component, scope='vipo', locations=['vipo.generators'])
KERNELS = NounRegistry('kernel', build_func=build_component, scope='vipo', locations=['vipo.diffusion'])
STEP_SELECTORS = NounRegistry('step selector', build_func=build_component, scope='vipo', locations=['vipo.diffusion'])
REWARDS = NounRegistry(
    'reward',
    build_func=build_component,
    scope='vipo',
    locations=['vipo.rewards', 'vipo.scenes.judge', 'vipo.scenes.fit'],
)
BACKBONES = NounRegistry('backbone', build_func=build_component, scope='vipo', locations=['vipo.structurers.backbones'])
ALLOCATORS = NounRegistry('allocator', build_func=build_component, scope='vipo', locations=['vipo.structurers'])
STRUCTURERS = NounRegistry(
    'structurer', build_func=build_component, scope='vipo', locations=['vipo.structurers', 'vipo.scenes.oracle']
)
LOSSES = NounRegistry('loss', build_func=build_component, scope='vipo', locations=['vipo.losses'])
STRATEGIES = NounRegistry('strategy', build_func=build_component, scope='vipo', locations=['vipo.engine.strategies'])


def _child(name: str, *locations: str) -> Registry:
    """A child of MMEngine's registry of that name: whatever is not ours is found there."""
    parent = getattr(mmengine_registry, name)
    return Registry(parent.name, parent=parent, scope='vipo', locations=list(locations))


LOOPS = _child('LOOPS', 'vipo.engine')
HOOKS = _child('HOOKS', 'vipo.engine')
LOG_PROCESSORS = _child('LOG_PROCESSORS', 'vipo.engine')
DATASETS = _child('DATASETS', 'vipo.datasets')
DATA_SAMPLERS = _child('DATA_SAMPLERS', 'vipo.datasets')
# Nothing of ours yet; without a child, MMEngine would warn at every build.
MODELS = _child('MODELS')
MODEL_WRAPPERS = _child('MODEL_WRAPPERS')
OPTIMIZERS = _child('OPTIMIZERS')
OPTIM_WRAPPERS = _child('OPTIM_WRAPPERS')
OPTIM_WRAPPER_CONSTRUCTORS = _child('OPTIM_WRAPPER_CONSTRUCTORS')
PARAM_SCHEDULERS = _child('PARAM_SCHEDULERS')
VISUALIZERS = _child('VISUALIZERS')
VISBACKENDS = _child('VISBACKENDS')

#: The roots, by name: what ``tools/list_components.py`` prints.
ROOTS = {
    r.name: r
    for r in (GENERATORS, KERNELS, STEP_SELECTORS, REWARDS, BACKBONES, ALLOCATORS, STRUCTURERS, LOSSES, STRATEGIES)
}

__all__ = [
    'ALLOCATORS',
    'BACKBONES',
    'DATASETS',
    'DATA_SAMPLERS',
    'GENERATORS',
    'HOOKS',
    'KERNELS',
    'LOG_PROCESSORS',
    'LOOPS',
    'LOSSES',
    'MODELS',
    'MODEL_WRAPPERS',
    'OPTIMIZERS',
    'OPTIM_WRAPPERS',
    'OPTIM_WRAPPER_CONSTRUCTORS',
    'PARAM_SCHEDULERS',
    'REWARDS',
    'ROOTS',
    'STEP_SELECTORS',
    'STRATEGIES',
    'STRUCTURERS',
    'VISBACKENDS',
    'VISUALIZERS',
    'ConfigError',
    'build_component',
]
