"""Editors of pictures by text under one form, and the edits that they are compared on.

An editor is called with `Edits` and a seed, does what no setting changes, such as an inversion, and answers with a
function (w, tau) -> edited pictures [B, 3, H, W] in [-1, 1]. w: guidance scale of the target, 1 is unguided. tau in
(0, 1]: the time from which on the edit acts, see each editor. It has `model`, whose network does all the work, and
`check(w, tau)`, which raises ValueError in one line for a setting that it cannot take. `named.py` lists them all.
"""
