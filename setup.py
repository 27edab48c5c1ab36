"""Packaging of composer_kd: one file declares everything that the project needs."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

CORE = [
    'mosaicml>=0.32,<0.33',
    'mosaicml-streaming>=0.11,<0.14',
    'torch>=2.6',
    'torchvision',
    'torchmetrics',
    'numpy',
    'pillow',
    'pyyaml',
    'pydantic>=2.6,<3',
    'safetensors>=0.4.3',
    'xxhash>=3.2',
    'matplotlib>=3.7',
    'tqdm',
]
EXTRAS = {
    'adversarial': ['foolbox>=3.3'],
    'tensorboard': ['tensorboard'],
    'test': [
        'foolbox>=3.3',
        'pytest>=8',
        'pytest-timeout',
        'pytest-xdist',
        'setuptools>=70.1',
        'ruff==0.17.5',
        'pyright==1.1.414',
    ],
}

setup(
    name='composer_kd',
    version='0.1.0',
    description='Retraining for a fraction of training: recycle what earlier runs computed, in MosaicML Composer.',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10,<3.13',
    packages=find_packages(include=['composer_kd', 'composer_kd.*']),
    # composer_kd/yamls is a tracked symlink to yamls/: wheel, sdist and editable installs all find the files there.
    package_data={
        'composer_kd': [
            'py.typed',
            'yamls/*.yaml',
            'yamls/*/*.yaml',
            'algorithms/*/README.md',
            'algorithms/*/metadata.json',
            'report/render/page.css',
        ],
    },
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={'console_scripts': ['composer-kd=composer_kd.cli:main']},
    classifiers=[
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
)
