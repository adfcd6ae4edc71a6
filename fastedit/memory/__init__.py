"""Where ids, keys and values lie, and for how many requests there is room.

`kv` is the pool, `extents` gives ranges of it away, `prefixes` knows what stands in them already,
and `capacity` counts how many requests may decode at once.
"""
