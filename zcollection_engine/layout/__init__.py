"""How a partition lies on the store: key spaces, metadata documents, chunks. Knows Zarr; knows no commits."""
