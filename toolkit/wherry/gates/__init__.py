"""The gates of a rollout: values in, decisions out. Pure, and replayable from what is stored.

    evidence   windows of devices -> one number for each device and gate, after minus before
    permute    two groups of devices -> how likely chance alone makes such a difference
    spending   a stated number of looks -> how much error each look may spend
    rules      what is asked, with which limits and at which confidence
    judge      all of these -> passed, failed or undecided

The device is the unit, not the transaction: shops differ, and a test on pooled transactions
calls identical models different in 8 to 72 % of cases (docs/rollouts.md).
"""
