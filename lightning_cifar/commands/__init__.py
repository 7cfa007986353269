"""Commands: a module or folder each, with a function of its name or, if it parses its words itself, ``main``.

`cli` starts them.
"""
