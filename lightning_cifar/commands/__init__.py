"""Commands of this package's own: each a module with ``main(args) -> int``, found by its name."""
