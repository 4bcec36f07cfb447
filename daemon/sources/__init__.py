"""Where granules are announced: one module a kind of source, all behind the contract in `base`.

What a source announces is a hint. Which collection wants a granule, whether it is already in, and whether it
is any good are not decided here.
"""
