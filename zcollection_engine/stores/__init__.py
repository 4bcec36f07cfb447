"""Object stores behind one protocol. Nothing here knows Zarr, partitions or commits."""
