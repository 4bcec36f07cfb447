"""The service: turns notifications of new granules into transactions of `zcollection_engine`."""
