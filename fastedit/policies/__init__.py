"""Decision rules: which masks are filled and which tokens are replaced or masked again.

A rule sees row statistics, ids and buffers of blocks, never a model. `base` says what a policy is,
`values` what a rule is given and returns, `state` what is kept of a block. `step` is one decision:
`statistics`, the rule, `writing`. `primitives` is what rules share; every file named after a rule
is that rule, with its source. `register` adds one from outside, and `open` and `step_` are for
loops of others.
"""

from fastedit.policies.base import Buffer, Policy, Stats, View, Write
from fastedit.policies.confidence import Confidence
from fastedit.policies.correction import Correction
from fastedit.policies.entropy_bound import EntropyBound
from fastedit.policies.joint_threshold import JointThreshold
from fastedit.policies.joint_threshold_indel import JointThresholdInDel
from fastedit.policies.low_confidence import LowConfidence
from fastedit.policies.me_dlm import MEDLM
from fastedit.policies.multi_block import MultiBlock
from fastedit.policies.proseco import ProSeCo
from fastedit.policies.registry import POLICIES, parse, register
from fastedit.policies.remask import Remask
from fastedit.policies.remdm import ReMDM
from fastedit.policies.saber import Saber
from fastedit.policies.self_correction import SelfCorrection
from fastedit.policies.state import State
from fastedit.policies.step import open, step_
from fastedit.policies.wino import Wino

__all__ = [
    "MEDLM",
    "POLICIES",
    "Buffer",
    "Confidence",
    "Correction",
    "EntropyBound",
    "JointThreshold",
    "JointThresholdInDel",
    "LowConfidence",
    "MultiBlock",
    "Policy",
    "ProSeCo",
    "ReMDM",
    "Remask",
    "Saber",
    "SelfCorrection",
    "State",
    "Stats",
    "View",
    "Wino",
    "Write",
    "open",
    "parse",
    "register",
    "step_",
]
