"""Packaging of ViPO."""

from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = next(
    line.split("'")[1]
    for line in (here / 'vipo/__init__.py').read_text().splitlines()
    if line.startswith('__version__')
)

# The wheel of rapidocr carries its models.
OCR = ['rapidocr>=3.10,<4', 'onnxruntime']
DOCS = ['mkdocs>=1.6,<2', 'mkdocs-material>=9.5,<10', 'mkdocstrings[python]>=1.0,<2']

setup(
    name='vipo',
    version=version,
    description='Visual preference policy optimization for image and video generators, composed from config files',
    long_description=(here / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['vipo', 'vipo.*']),
    package_data={'vipo': ['py.typed', 'assets/**/*', 'comparison/templates/*']},
    include_package_data=True,
    python_requires='>=3.10',
    install_requires=[
        'torch>=2.6',
        'torchvision>=0.21',
        'diffusers>=0.42',
        'transformers>=5.0',
        'timm>=1.0.20',
        'open_clip_torch>=2.30',
        'mmengine>=0.10.7,<1',
        # MMEngine imports cv2 without declaring it everywhere.
        'opencv-python-headless',
        'decord',
        'peft>=0.17',
        'accelerate',
        'psutil',
        'safetensors',
        'tensorboard',
        'matplotlib',
        'jinja2',
        'pillow>=10.1',
        'numpy',
        'setuptools',
    ],
    extras_require={
        'dev': ['pytest>=8', 'pytest-timeout', 'pytest-xdist', 'ruff', 'scikit-learn', 'scipy', *OCR, *DOCS],
        'docs': DOCS,
        'ocr': OCR,
        'wandb': ['wandb'],
    },
)
