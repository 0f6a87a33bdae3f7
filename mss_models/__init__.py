"""The network side: modalities, label sets, systems, checkpoints, metrics, inference. Needs torch; knows no ROS."""
