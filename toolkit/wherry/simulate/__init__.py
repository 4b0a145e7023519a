"""A rollout before it is one: the real planner and gates, on devices that are modelled.

    shops   what each device's traffic looks like, and what a bad model does to it
    links   when a device is there, and how long it takes to do what it is told
    run     the planner's looks over it all, from the first order to the last device

Nothing here touches a clock, a disk or a network; a seed gives the same run again.
"""
