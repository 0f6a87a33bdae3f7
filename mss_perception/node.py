"""The ROS 2 node `mss_perception`: convert, call, publish.

    ros2 run mss_perception segmentation_node --ros-args --params-file config/delivery.yaml

A lifecycle node. configure loads the network, activate subscribes and starts the pipeline, deactivate stops both,
cleanup frees the network. With the parameter `autostart` (default true) it configures and activates itself; a failure
then ends the process with its cause and exit status 1, or 2 when a parameter or file is wrong.

Threads: the executor's thread runs the subscriptions, which only hand messages to the pipeline, and the timers; the
pipeline's own thread runs the network and publishes. Set deadlines are on the steady clock; stamps are on the node's.
No exception in any of this ends the node: it is counted, logged and reported on /diagnostics.
"""

from __future__ import annotations

# ruff: noqa: E402 (memory is to be kept before NumPy and rclpy start threads)
from mss_models.allocator import keep_freed_memory

keep_freed_memory()

import functools
import gc
import logging
import sys
import time
import traceback
from collections.abc import Callable, Sequence

import rclpy
import torch
from rclpy.clock import Clock, JumpThreshold, TimeJump
from rclpy.clock_type import ClockType
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions

from mss_models.checkpoint import DEFAULT_CHECKPOINT, CheckpointError
from mss_models.runtime import OptionError, open_runtime
from mss_perception import ros_compat, ros_params
from mss_perception.calibration import CalibrationError
from mss_perception.config import Config, ConfigError
from mss_perception.pipeline import Output, Pipeline
from mss_perception.ros_diagnostics import Diagnostics
from mss_perception.ros_outputs import Outputs
from mss_perception.ros_process import Interrupted, Interruptible, ignore_signals, leave, spin
from mss_perception.ros_topics import Topic, subscribe
from mss_perception.units import SECOND

DIAGNOSTICS_PERIOD_SEC = 1.0
SWITCH_SEC = 2e-4           # for which a thread keeps the interpreter when another one wants it; Python has 5 ms
ERROR_PERIOD_SEC = 10.0     # between two tracebacks of one line of code
BAD_INPUT = (CalibrationError, CheckpointError, ConfigError, OptionError)


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


def contained(work: Callable) -> Callable:
    """A method of the active node that survives what it raises: counted as the pipeline's warning, and logged."""
    @functools.wraps(work)
    def contain(node: SegmentationNode, *arguments) -> None:
        if node.pipeline is None:
            return          # a callback that was on its way when the node was deactivated
        try:
            work(node, *arguments)
        except Exception:   # a bug must cost this call, never the node
            node.pipeline.warnings[f"{work.__name__.strip('_')}_errors"] += 1
            node.get_logger().error(traceback.format_exc(), throttle_duration_sec=ERROR_PERIOD_SEC)
    return contain


class SegmentationNode(LifecycleNode):
    """See the module's text. Raises ConfigError when a parameter is wrong."""

    def __init__(self, **options) -> None:
        """options: as of rclpy.node.Node."""
        super().__init__("mss_perception", **options)
        try:
            self.autostart, self.config = ros_params.declare(self)
        except ConfigError:
            leave(self)
            raise
        ros_params.follow_changes(self, self.config, self._check_fits)
        self.log = RosLog(self.get_logger())
        logging.getLogger("mss_perception").addHandler(self.log)
        logging.getLogger("mss_perception").setLevel(logging.INFO)
        self.steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.runtime = self.outputs = self.pipeline = self.diagnostics = self.jumps = None
        self.topics: list[Topic] = []
        self.timers_active = []
        self.wake_ns: int | None = None     # when the pipeline wants to be polled, on the steady clock
        self.failure = ""       # why the last transition failed
        self.failed_by_input = False
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
            self.failed_by_input = isinstance(error, BAD_INPUT)
            self.get_logger().error(self.failure)
            self.get_logger().debug(traceback.format_exc())
            if undo:
                undo()
            return TransitionCallbackReturn.FAILURE
        self.get_logger().info(f"{name} done")
        return TransitionCallbackReturn.SUCCESS

    def _check_fits(self, config: Config) -> None:
        """Raise ConfigError for parameters that the running pipeline cannot serve."""
        if self.pipeline:
            self.pipeline.check_modalities(config.collector.min_modalities)

    def _configure(self) -> None:
        config = self.config
        self.runtime = open_runtime(config.checkpoint or DEFAULT_CHECKPOINT, config.backend, config.device,
                                    config.precision, config.threads or None)
        self.outputs = Outputs(self, self.runtime.labels, config.target_cameras)
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
        if not (ros_compat.tf2_msgs or self.config.calibration_file):
            self.get_logger().warning("tf2_msgs is not importable, so no transforms are heard: sensors that "
                                      "are not in the target camera's frame need a calibration_file")
        self.alarm = self.create_timer(DIAGNOSTICS_PERIOD_SEC, self._poll, clock=self.steady)
        self.timers_active = [self.alarm, self.create_timer(DIAGNOSTICS_PERIOD_SEC, self._diagnose, clock=self.steady)]

    def _deactivate(self) -> None:
        for timer in self.timers_active:
            self.destroy_timer(timer)
        for topic in self.topics:
            topic.destroy()
        self.timers_active, self.topics, self.wake_ns = [], [], None
        if self.jumps:
            self.jumps.unregister()
            self.jumps = None
        if self.pipeline:
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

    # Work while active, on the executor's thread but for _publish.

    @contained
    def _receive(self, topic: Topic, message, info: dict) -> None:
        topic.count(message, info)
        clock_ns = self.get_clock().now().nanoseconds
        if not clock_ns and topic.role in self.pipeline.inputs:
            # Under use_sim_time the clock stands at zero until the first /clock: stamps cannot be judged yet.
            self.pipeline.warnings["before_clock"] += 1
            return
        self.pipeline.receive(topic.role, message, time.monotonic_ns(), clock_ns or None)
        if self.pipeline.next_deadline() != self.wake_ns:
            self._set_alarm()

    @contained
    def _poll(self) -> None:
        self.pipeline.poll(time.monotonic_ns())
        self._set_alarm()

    def _set_alarm(self) -> None:
        """Have _poll called at the pipeline's next deadline. Once a second it is called anyway, by _diagnose."""
        self.wake_ns = self.pipeline.next_deadline()
        self.alarm.timer_period_ns = SECOND if self.wake_ns is None else max(self.wake_ns - time.monotonic_ns(), 1)
        self.alarm.reset()

    def _publish(self, output: Output) -> None:
        if self.context.ok():   # after SIGINT the context is gone while the last set is still in the network
            self.outputs.publish(output)

    @contained
    def _diagnose(self) -> None:
        self._poll()
        self.diagnostics.publish(self.pipeline, self.topics)

    @contained
    def _clock_jumped(self, jump: TimeJump) -> None:
        self.pipeline.reset(f"the node's clock jumped by {jump.delta.nanoseconds / 1e9:+.3f} s")


def main(argv: Sequence[str] | None = None) -> int:
    sys.setswitchinterval(SWITCH_SEC)
    loading = Interruptible()       # until spin() has its own way
    try:
        rclpy.init(args=argv, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:       # rclpy's own: an argument, parameter file or environment that rcl cannot use
        print(f"mss_perception: ROS does not start: {ros_params.one_line(error)}", file=sys.stderr)
        return 2
    executor = SingleThreadedExecutor()
    node = None
    try:
        node = SegmentationNode()
        executor.add_node(node)
        if node.autostart:
            for transition in (node.trigger_configure, node.trigger_activate):
                if transition() != TransitionCallbackReturn.SUCCESS:
                    print(f"mss_perception: {node.failure}", file=sys.stderr)
                    return 2 if node.failed_by_input else 1
            loading.check()
            node.get_logger().info("active")
        spin(executor)
    except ConfigError as error:
        print(f"mss_perception: {error}", file=sys.stderr)
        return 2
    except Interrupted:
        ignore_signals()
    finally:
        executor.shutdown()
        if node:
            node.close()
            leave(node)
        rclpy.try_shutdown()    # makes way for a new default context: main may be called again
        gc.freeze()     # else the interpreter's last collections walk over all of torch, for a second on a busy machine
    return 0


if __name__ == "__main__":
    sys.exit(main())
