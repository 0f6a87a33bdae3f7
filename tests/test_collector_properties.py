"""What must hold for any sequence of arrivals whatever (hypothesis finds the sequences)."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from mss_perception.collector import Collector, State
from mss_perception.config import CollectorConfig, InputConfig

MS = 1_000_000
SAMPLED = ("rgb", "depth", "lidar")

per_input = st.fixed_dictionaries({
    "tolerance_sec": st.sampled_from([0.0, 0.01, 0.03, 0.05, 0.12]), "hold_sec": st.sampled_from([0.0, 0.0, 0.2]),
    "offset_sec": st.sampled_from([0.0, 0.005, -0.01]), "queue": st.sampled_from([1, 2, 8, 50]),
    "max_bytes": st.sampled_from([200, 1 << 20, 1 << 20]), "missing_after": st.integers(1, 4),
    "recover_after": st.integers(1, 3)})
configs = st.builds(
    CollectorConfig, tick_source=st.permutations([*SAMPLED, "event"]), tick_rate_hz=st.sampled_from([5.0, 10.0, 20.0]),
    deadline_sec=st.sampled_from([0.0, 0.04, 0.1, 0.3]), max_pending=st.integers(1, 4), max_future_sec=st.just(0.1),
    jump_back_sec=st.sampled_from([0.2, 1.0]), late_policy=st.just("drop"))
arrivals = st.lists(st.tuples(
    st.sampled_from([*SAMPLED, "event"]),
    st.integers(0, 40),                                                     # ms since the arrival before
    st.one_of(st.integers(0, 80), st.integers(-400, 400), st.sampled_from([-3000, 3000])),      # latency, ms
    st.sampled_from([0, 50, 90]),                                           # bytes
), min_size=1, max_size=120)


@settings(max_examples=300, deadline=None)
@given(inputs=st.fixed_dictionaries(dict.fromkeys([*SAMPLED, "event"], per_input)), config=configs, arrivals=arrivals,
       has_clock=st.booleans())
def test_invariants(inputs, config, arrivals, has_clock):
    sets, kept = [], {name: {} for name in SAMPLED}         # kept: payload -> t of what the collector has accepted
    configs = {name: InputConfig(name, **fields) for name, fields in inputs.items()}
    collector = Collector(list(configs.values()), config, sets.append, {"event": 50 * MS})
    served = Counter()
    deadline = round(config.deadline_sec * 1e9)
    now, checked = 20_000 * MS, 0

    def check_new_sets():
        nonlocal checked
        for one in sets[checked:]:
            assert one.emitted_ns - one.opened_ns <= deadline
            for name in SAMPLED:
                state, tolerance = one.inputs[name], round(configs[name].tolerance_sec * 1e9)
                unused = [t for payload, t in kept[name].items() if not served[name, payload]]
                evicted = collector.input_counters[name]["evicted"]
                possible = [abs(t - one.t_ref_ns) for t in unused if abs(t - one.t_ref_ns) <= tolerance]
                if state.state is State.OK:
                    assert abs(state.delta_ns) <= tolerance
                    assert not served[name, state.payload]
                    assert kept[name][state.payload] == one.t_ref_ns + state.delta_ns
                    assert evicted or abs(state.delta_ns) == min(possible)
                elif state.state is State.HELD:
                    assert 0 <= state.age_ns <= round(configs[name].hold_sec * 1e9)
                    assert state.age_ns == one.t_ref_ns - kept[name][state.payload]
                else:
                    assert state.payload is None and not state.present
                    assert evicted or not possible
                if state.present:
                    served[name, state.payload] += 1
                    assert served[name, state.payload] == 1 or configs[name].hold_sec > 0
        checked = len(sets)

    for number, (name, gap, latency, nbytes) in enumerate(arrivals):
        now += gap * MS
        collector.advance(now)
        check_new_sets()
        stamp = now - latency * MS + round(configs[name].offset_sec * 1e9)
        clock = now if has_clock else None
        epoch, before = collector.epoch, collector.status()["inputs"].get(name, {}).get("newest_ns")
        if name == "event":
            accepted = collector.add_stream(name, stamp - 10 * MS, stamp, number, now, nbytes, clock)
        else:
            t = stamp - round(configs[name].offset_sec * 1e9)
            for payload in [payload for payload, other in kept[name].items() if other == t]:
                if not served[name, payload]:
                    del kept[name][payload]                 # replaced by this duplicate
                else:
                    served[name, number] = served[name, payload]        # or this one is as used as the first
            kept[name][number] = t
            accepted = collector.add(name, stamp, number, now, nbytes, clock)
            if not accepted:
                del kept[name][number]
        if collector.epoch != epoch:
            kept = {each: {k: v for k, v in kept[each].items() if k == number} for each in SAMPLED}
        elif not accepted:
            assert collector.status()["inputs"][name]["newest_ns"] == before    # a rejected stamp moves nothing
        check_new_sets()
        status = collector.status()
        for each, one in configs.items():
            assert status["inputs"][each]["queued"] <= one.queue + (each != "event") * config.max_pending
            assert status["inputs"][each]["queued_bytes"] <= max(one.max_bytes, 90)
        assert status["pending"] <= config.max_pending
        assert collector.counters["ticks"] == len(sets) + status["pending"] + sum(collector.dropped.values())
        wake = collector.next_deadline()
        assert wake is None or wake > now
        assert wake is not None or status["pending"] == 0   # an open set always has a deadline
    collector.flush(now)
    check_new_sets()
    assert collector.counters["ticks"] == len(sets) + sum(collector.dropped.values())
    for a, b in zip(sets, sets[1:], strict=False):
        assert b.seq == a.seq + 1 and (b.epoch > a.epoch or b.t_ref_ns > a.t_ref_ns)
    half = 0.5e9 / config.tick_rate_hz
    for a, b in zip(sets, sets[1:], strict=False):
        assert b.epoch > a.epoch or b.t_ref_ns - a.t_ref_ns >= half - 1
