"""A decision rule of one's own, in a file of one's own: it decodes at once, in any batch.

    python examples/policy.py

`hurried` fills the better half of what is masked in every forward, and edits nothing.
"""

from dataclasses import dataclass

import torch

from fastedit import DecodeConfig, Decoder, policies
from fastedit.policies import Policy, Stats, View, Write
from fastedit.policies.fields import number
from fastedit.policies.primitives import highest


@policies.register("hurried")
@dataclass(frozen=True)
class Hurried(Policy):
    """Fills a share of the masks per forward, the most confident first, at least one.

    share: of the masks that are left; one value per request, on the device.
    """

    share: float = number(0.5, most=1.0)

    judges_tokens = False  # bad logits matter where there is a mask

    def rule(self, stats: Stats, view: View) -> Write:
        masked = view.masked()
        count = (masked.sum(-1) * view.parameters.share).long().clamp(min=1)
        fill = highest(stats.prob, masked, count)
        ids = torch.where(fill, stats.token, view.ids)
        return Write(ids, done=~(masked & ~fill).any(-1))

    def most_forwards(self, length: int) -> int:
        return length


def main() -> None:
    decoder = Decoder.from_pretrained("tiny", DecodeConfig(max_new_tokens=64))
    ask = "State the final answer to the following arithmetic problem: 27 + 45 - 86 ="
    chat = [{"role": "user", "content": ask}]
    for policy in ("joint_threshold", "hurried", "hurried:share=0.2"):
        out = decoder.generate(chat, policy=policy)
        rate = out.stats[0].tokens_per_forward
        print(f"{policy:18} {rate:5.2f} tokens per forward  {out.texts[0]}")


if __name__ == "__main__":
    main()
