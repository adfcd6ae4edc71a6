"""What a step makes of clean ids before the model is to repair them.

| module | what is in it |
|---|---|
| `draws` | random numbers, each a function of seed, epoch, example and position |
| `schedule` | mask rates |
| `corruption` | masks, random wrong tokens, labels |
| `ranks` | the best positions of each document or block |
| `drafts` | masks filled with the model's own tokens; rounds of decoding |
| `rollout` | blocks that the model goes on decoding by a policy |
| `edits` | labels of a draft: keep, replace, delete, insert |
"""
