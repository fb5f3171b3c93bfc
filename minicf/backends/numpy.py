"""The NumPy backend: the reference, which composes every program of the operations of `ops`."""

from minicf.backends.backend import Backend

BACKEND = Backend("numpy")
compile = BACKEND.compile
