# The node on ROS 2 Jazzy. Not verified: written for a machine with a container engine, which was not at hand.
#   docker build -t mss_perception .
#   docker run --rm --net=host --ipc=host mss_perception            (add --gpus all for an NVIDIA GPU)
FROM ros:jazzy-ros-base

RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv python3-pip python3-colcon-common-extensions \
       ros-jazzy-vision-msgs ros-jazzy-tf2-msgs ros-jazzy-cv-bridge ros-jazzy-message-filters \
       ros-jazzy-sensor-msgs-py \
    && rm -rf /var/lib/apt/lists/*

COPY . /opt/mss_perception
WORKDIR /opt/mss_perception

# A virtual environment that sees the system's ROS (PEP 668 forbids pip outside one). colcon runs inside it, so that
# the installed executables start with its interpreter.
RUN python3 -m venv --system-site-packages .venv \
    && .venv/bin/pip install --no-cache-dir -e . \
    && . .venv/bin/activate && . /opt/ros/jazzy/setup.sh \
    && cd ros2_ws && python -m colcon build

ENV FASTDDS_BUILTIN_TRANSPORTS="DEFAULT?sockets_size=16MB"
CMD ["bash", "-c", "source /opt/ros/jazzy/setup.bash && source ros2_ws/install/setup.bash && exec ros2 launch mss_perception delivery.launch.py"]
