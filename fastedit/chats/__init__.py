"""Chats as text, for decoding and training alike.

`messages` checks what a caller calls a chat; `template` applies the tokenizer's template, whose
`source` tells what it reads; `marks` finds out what it would drop.
"""
