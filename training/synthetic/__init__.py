"""The world that the project records itself: procedural streets, a moving vehicle and its simulated sensors.

From the ground up; each file uses only what stands above it:

    kernels                         the compiled loops of shading: patterns, surfaces, light
    looks, mesh, curve              what a surface is, shapes, the street's centre line
    people, vehicles, props, plots  what a street is furnished with
    layout, movers                  a street by seed; the ego vehicle and the traffic over time
    raycast                         rays against the still street and the moving bodies
    weather, shading                light, and what a surface sends back
    air                             what fog and rain make of it on its way
    drive                           one street, one light, one traffic: all that sensors look at
    rig, cameras, spinning_lidar,   where the sensors sit, and what each makes of it; which of them fails
    front_radar, event_camera,
    recorder
    lanes, deliver_tree, bag,       how it is written, and how a tree travels
    shards

Every class of DELIVER but Other is there: that one is what belongs to no class, and a street made of things that were
given a class holds nothing of the kind.
"""
