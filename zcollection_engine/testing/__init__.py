"""Tools for tests of code that uses the engine. Nothing in the engine itself depends on them."""
