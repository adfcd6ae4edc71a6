"""What a step is judged by.

| module | what is in it |
|---|---|
| `head` | losses and predictions of chosen rows without the logits of all |
| `weights` | weights of positions, and what the summed loss is divided by |
| `metrics` | counts that add up over batches and processes, and their rates |
| `operations` | the same by operation: keep, replace, delete, insert |
"""
