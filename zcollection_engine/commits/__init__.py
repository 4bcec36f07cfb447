"""The commit log: records, their folding into a state, grants. Knows no Zarr and no merging of rows."""
