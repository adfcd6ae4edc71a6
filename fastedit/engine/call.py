"""The old place of `plans.call.ModelCall`, which documents of before name."""

from fastedit.plans.call import ModelCall as ModelCall
