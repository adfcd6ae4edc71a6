"""What goes in as a prompt, and what comes out as text.

In: `inputs` turns whatever a caller calls a prompt into checked ids; `tokens` says which ids mask
and end, and `text` keeps marks that stand in a text from becoming ids. Out: `tracker` decodes
committed ids as they come, with `spelling` for whole characters and `stops` for stop texts;
`streamers` feeds transformers' streamers.
"""
