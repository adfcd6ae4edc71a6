"""Decision rules: who commits, who is edited. They see ids, logits and masks, never a model."""

from fastedit.policies.joint_threshold import JointThreshold

POLICIES = {"joint_threshold": JointThreshold}

__all__ = ["POLICIES", "JointThreshold"]
