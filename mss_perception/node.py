"""The ROS 2 node `mss_perception`: convert, call, publish.

    ros2 run mss_perception segmentation_node --ros-args --params-file config/delivery.yaml

A lifecycle node. configure loads the network, activate subscribes and starts the pipeline, deactivate stops both,
cleanup frees the network. With the parameter `autostart` (default true) it configures and activates itself; a failure
then ends the process with exit code 1 and its cause.

Threads: the executor's thread runs the subscriptions, which only hand messages to the pipeline, and the timers; the
pipeline's own thread runs the network and publishes. Set deadlines are on the steady clock; stamps are on the node's.
"""

from __future__ import annotations

import gc
import logging
import sys
import time
import traceback
from collections.abc import Sequence

import rclpy
import torch
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.clock import Clock, JumpThreshold, TimeJump
from rclpy.clock_type import ClockType
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from mss_models.checkpoint import DEFAULT_CHECKPOINT
from mss_models.runtime import open_runtime
from mss_perception import ros_compat, ros_params
from mss_perception.config import ConfigError
from mss_perception.pipeline import Output, Pipeline
from mss_perception.ros_diagnostics import Diagnostics
from mss_perception.ros_outputs import Outputs
from mss_perception.ros_shutdown import leave
from mss_perception.ros_topics import Topic, subscribe

POLL_PERIOD_SEC = 0.005     # a set's deadline is met to within this
DIAGNOSTICS_PERIOD_SEC = 1.0


class RosLog(logging.Handler):
    """Brings what the ROS-free modules log to the node's logger, and so to /rosout."""

    def __init__(self, logger) -> None:
        super().__init__(logging.INFO)
        self.logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        try:
            # rclpy keeps a severity per line of code and refuses another one there: a line for each.
            if record.levelno >= logging.ERROR:
                self.logger.error(self.format(record))
            elif record.levelno >= logging.WARNING:
                self.logger.warning(self.format(record))
            else:
                self.logger.info(self.format(record))
        except Exception:   # a log line must never end the thread that writes it
            self.handleError(record)


class SegmentationNode(LifecycleNode):
    """See the module's text. Raises ConfigError when a parameter is wrong."""

    def __init__(self) -> None:
        super().__init__("mss_perception")
        self.autostart = self.declare_parameter(
            "autostart", True, ParameterDescriptor(description="Configure and activate at start", read_only=True)).value
        self.config = ros_params.declare(self)
        ros_params.follow_changes(self, self.config)
        self.log = RosLog(self.get_logger())
        logging.getLogger("mss_perception").addHandler(self.log)
        logging.getLogger("mss_perception").setLevel(logging.INFO)
        self.steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.runtime = self.outputs = self.pipeline = self.diagnostics = None
        self.topics: list[Topic] = []
        self.timers_active = []
        self.failure = ""       # why the last transition failed
        self.get_logger().info(ros_compat.describe())

    # Transitions. rclpy swallows what they raise, so each is wrapped to log the cause and to fail.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("configure", self._configure, undo=self._cleanup)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        result = super().on_activate(state)     # enables the publishers
        if result == TransitionCallbackReturn.SUCCESS:
            result = self._transition("activate", self._activate, undo=self._deactivate)
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        result = self._transition("deactivate", self._deactivate)
        return super().on_deactivate(state) if result == TransitionCallbackReturn.SUCCESS else result

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("cleanup", self._cleanup)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("shutdown", self.close)

    def _transition(self, name: str, work, undo=None) -> TransitionCallbackReturn:
        try:
            work()
        except Exception as error:  # whatever it is, the node must stay controllable and the user must see it
            self.failure = f"cannot {name}: {error or type(error).__name__}"
            self.get_logger().error(self.failure)
            self.get_logger().debug(traceback.format_exc())
            if undo:
                undo()
            return TransitionCallbackReturn.FAILURE
        self.get_logger().info(f"{name} done")
        return TransitionCallbackReturn.SUCCESS

    def _configure(self) -> None:
        config = self.config
        self.runtime = open_runtime(config.checkpoint or DEFAULT_CHECKPOINT, config.backend, config.device,
                                    config.precision, config.threads or None)
        self.runtime.warmup(*self.runtime.image_size)
        self.outputs = Outputs(self, self.runtime.labels, config.target_camera)
        self.diagnostics = Diagnostics(self)
        self.get_logger().info(f"network {self.runtime.model_id} on {self.runtime.device}, {self.runtime.precision}, "
                               f"modalities {', '.join(self.runtime.modalities)}")

    def _activate(self) -> None:
        self.get_logger().info("starting the pipeline; the first time on a machine its kernels are compiled")
        self.pipeline = Pipeline(self.config, self.runtime, self._publish, synchronous=False)
        self.outputs.announce_labels()
        threshold = JumpThreshold(
            min_forward=None, min_backward=Duration(seconds=-self.config.collector.jump_back_sec), on_clock_change=True)
        self.jumps = self.get_clock().create_jump_callback(threshold, post_callback=self._clock_jumped)
        self.topics = subscribe(self, self.config, self._receive)
        self.timers_active = [self.create_timer(POLL_PERIOD_SEC, self._poll, clock=self.steady),
                              self.create_timer(DIAGNOSTICS_PERIOD_SEC, self._diagnose, clock=self.steady)]

    def _deactivate(self) -> None:
        for timer in self.timers_active:
            self.destroy_timer(timer)
        for topic in self.topics:
            topic.destroy()
        self.timers_active, self.topics = [], []
        if self.pipeline:
            self.jumps.unregister()
            self.pipeline.close()
            self.pipeline = None

    def _cleanup(self) -> None:
        for part in (self.outputs, self.diagnostics):
            if part:
                part.destroy()
        self.runtime = self.outputs = self.diagnostics = None
        if torch.cuda.is_available():
            gc.collect()    # the network may sit in reference cycles
            torch.cuda.empty_cache()

    def close(self) -> None:
        """Stop everything, whatever the state; no thread is left."""
        self._deactivate()
        self._cleanup()
        logging.getLogger("mss_perception").removeHandler(self.log)

    def destroy_node(self) -> None:
        super().destroy_node()
        # rclpy forgets the state machine, which holds the participant and its shared memory.
        self._state_machine.destroy_when_not_in_use()

    # Work while active.

    def _receive(self, role: str, message) -> None:
        self.pipeline.receive(role, message, time.monotonic_ns(), self.get_clock().now().nanoseconds or None)

    def _poll(self) -> None:
        # Under use_sim_time the clock stands at zero until the first /clock; nothing times out before it runs.
        if self.get_clock().now().nanoseconds:
            self.pipeline.poll(time.monotonic_ns())

    def _publish(self, output: Output) -> None:
        if self.context.ok():   # after SIGINT the context is gone while the last set is still in the network
            self.outputs.publish(output)

    def _diagnose(self) -> None:
        self.diagnostics.publish(self.pipeline, self.topics)

    def _clock_jumped(self, jump: TimeJump) -> None:
        self.pipeline.reset(f"the node's clock jumped by {jump.delta.nanoseconds / 1e9:+.3f} s")


def main(argv: Sequence[str] | None = None) -> int:
    rclpy.init(args=argv)
    executor = SingleThreadedExecutor()
    node = None
    try:
        node = SegmentationNode()
        executor.add_node(node)
        if node.autostart:
            for transition in (node.trigger_configure, node.trigger_activate):
                if transition() != TransitionCallbackReturn.SUCCESS:
                    print(f"mss_perception: {node.failure}", file=sys.stderr)
                    return 1
            node.get_logger().info("active")
        executor.spin()
    except ConfigError as error:
        print(f"mss_perception: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        pass    # SIGINT or SIGTERM is how a node ends
    finally:
        executor.shutdown()
        if node:
            node.close()
            leave(node)
        gc.freeze()     # else the interpreter's last collections walk over all of torch, for a second on a busy machine
    return 0


if __name__ == "__main__":
    sys.exit(main())
