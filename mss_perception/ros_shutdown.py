"""The end of a process that takes part in ROS."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

import rclpy
from rclpy.node import Node


def leave(node: Node) -> None:
    """Destroy the node and leave DDS, so that peers know at once and no shared memory stays behind."""
    hang_up()
    node.destroy_node()
    rclpy.try_shutdown(context=node.context)


def hang_up() -> None:
    """Shut down this process's TCP connections.

    With FASTDDS_BUILTIN_TRANSPORTS=LARGE_DATA, Fast DDS (seen in 3.2.3, in one end of five) waits forever for a thread
    of its own that reads from a peer who says nothing more (TCPChannelResourceBasic::disconnect). The end of the
    connection wakes that thread. It is of no harm elsewhere: peers are told over UDP, and this process is done.
    """
    with suppress(FileNotFoundError):       # no /proc: not Linux
        for descriptor in os.listdir("/proc/self/fd"):
            # OSError: no socket, or one that listens and has no peer
            with suppress(OSError), socket.socket(fileno=os.dup(int(descriptor))) as connection:
                if connection.type == socket.SOCK_STREAM and connection.family in (socket.AF_INET, socket.AF_INET6):
                    connection.getpeername()
                    connection.shutdown(socket.SHUT_RDWR)
