"""Data sets on disk, each read by one file of this package into `sample.Sample`s."""
