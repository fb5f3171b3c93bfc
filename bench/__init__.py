"""Benchmarks of minicf beside other engines: `python -m bench`. See README.md in this folder."""
