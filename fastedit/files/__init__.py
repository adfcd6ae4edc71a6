"""Files that are read line by line and outputs that one run holds at a time.

| module | what is in it |
|---|---|
| `jsonl` | files of JSON Lines, and what is wrong with them |
| `keys` | which keys of a line or a message may be left unread |
| `records` | what a line asks: a text or a chat |
| `locks` | one run at a time on an output |
| `disk` | whether an error says that a disk is full |
"""
