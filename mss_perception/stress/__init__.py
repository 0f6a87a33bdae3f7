"""Does it keep what it promises, whatever the sensors do: `python -m mss_perception.stress`.

    rig.py      the sensors of a storm, and what they send when all is well
    damage.py   what can be wrong with a message, and whether it is noticed
    storm.py    what goes wrong and when, all of it from a seed
    inside.py   a storm through the pipeline, as fast as it goes
    judge.py    what must come of it: an oracle that shares no code with the collector,
                by what each input was given (ledger.py) and what is promised of calms (promises.py)
    outside.py  a storm through the node on ROS 2 (live_storm.py), in real time, a process for each sensor
    live_judge.py   what must come of that
    verdict.py, report.py   what was decided, and the result of all
"""
