"""A run, from its options to its result.

| module | what is in it |
|---|---|
| `settings` | the options of a run |
| `run` | the way in: data, model, trainer, result |
| `amounts` | steps, rows and rates that follow from the data |
| `steps` | the step that a run trains, around its model |
| `trainer` | `transformers.Trainer` around a step |
| `folder` | what lies in the folder of a run, and whether one may begin or go on there |
| `checkpoints` | folders that appear whole or not at all; the log of steps |
| `curves` | the logs as a picture |
| `trackers` | what transformers reports to |
| `samples` | a prompt decoded now and then |
| `lora` | what is adapted |
| `control_tokens` | ids that delete and insert, and rows for those that are new |
| `token_rows` | the rows of some tokens, trained beside LoRA |
"""
