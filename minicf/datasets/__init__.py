"""Data that travel with minicf. Terms of use and citation: ``MOVIELENS.txt``."""
