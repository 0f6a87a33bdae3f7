"""Camera -> sensor_msgs/CameraInfo; the way back is `Camera.from_info`."""

from __future__ import annotations

import numpy as np

from mss_perception.camera import Camera
from mss_perception.messages.common import encode_header


def encode_camera_info(types, camera: Camera, stamp_ns: int):
    """sensor_msgs/CameraInfo of a camera; P is K without rectification."""
    return types.CameraInfo(
        header=encode_header(types, stamp_ns, camera.frame_id), height=camera.height, width=camera.width,
        distortion_model="plumb_bob" if camera.model == "none" else camera.model,
        d=np.array(camera.D, np.float64), k=np.array(camera.K, np.float64).ravel(), r=np.eye(3).ravel(),
        p=np.hstack([camera.K, np.zeros((3, 1))]).ravel(), binning_x=0, binning_y=0,
        roi=types.RegionOfInterest(x_offset=0, y_offset=0, height=0, width=0, do_rectify=False))
