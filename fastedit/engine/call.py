"""The old place of `plans.call.ModelCall`: documents named it here, so it can still be imported."""

from fastedit.plans.call import ModelCall as ModelCall
