"""Colours that every drawing shares."""

INK, FAINT, RULE, PAPER, CARD = "#1f2328", "#59636e", "#d1d9e0", "#f6f8fa", "#ffffff"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")
"""Okabe and Ito's colours, distinguishable with any common colour blindness; yellow and black left out."""
