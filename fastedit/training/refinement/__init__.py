"""Training of models that insert and delete in texts of any length: ME-DLM (arXiv 2605.09603).

| module | what is in it |
|---|---|
| `options` | drafts and labels of the edit stage, with their defaults |
| `rows` | answers, their masks, and the labels of the mask stage |
| `rollouts` | drafts: masks filled in random order, then edited by ME-DLM's own rule |
| `edits` | rows of the edit stage: drafts in place of answers, and their labels |
| `start` | the second head that a run begins from |
| `checks` | models and ids that are refused |
| `counts` | what both heads make of the labels, as counts and rates |
| `step` | the step around model and second head |
"""
