"""Texts of users (ids, titles, names) where a person reads them."""

from __future__ import annotations

import unicodedata


def harmless(text: str) -> str:
    """Return a text with escapes in place of characters that a terminal would obey, or that change the order of others.

    These are the control characters (ESC among them), line separators, the marks of writing direction, and halves of
    surrogate pairs, which no output can encode.
    """
    if text.isprintable():
        return text
    return "".join(
        ascii(mark)[1:-1] if unicodedata.category(mark) in ("Cc", "Zl", "Zp", "Cs") or mark in DIRECTIONS else mark
        for mark in text
    )


DIRECTIONS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
